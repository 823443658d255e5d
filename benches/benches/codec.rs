//! Encoding and decoding of three records, at four payload sizes, beside apache-avro (its tree of values and
//! its serde path), serde_avro_fast (owned and borrowed) and a plain copy of as many bytes.
//!
//! All of it: `cargo bench -p kjob-benches --bench codec`; in half a minute, with wider error bars: the same with
//! `-- --quick`. `reply` is an envelope around a `get_job_response`, made and opened in one go.

use std::hint::black_box;
use std::time::Duration;

use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::writer::datum::GenericDatumWriter;
use bytes::Bytes;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, criterion_group, criterion_main};
use kjob_benches::samples::{EnvelopeBorrowed, EnvelopeOwned, PAYLOAD_LENS, Sample};
use kjob_proto::{
    CreateJobRequest, Encoding, Envelope, GetJobResponse, Limits, Record, Reply, reply_ok,
};
use serde_avro_fast::ser::SerializerConfig;

criterion_group! {
    name = codec;
    config = Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = records, replies
}
criterion_main!(codec);

fn records(c: &mut Criterion) {
    encode::<CreateJobRequest>(c);
    encode::<GetJobResponse>(c);
    encode::<Envelope>(c);
    decode::<CreateJobRequest>(c);
    decode::<GetJobResponse>(c);
    decode::<Envelope>(c);
}

fn replies(c: &mut Criterion) {
    encode_reply(c);
    decode_reply(c);
}

/// The schemas of a record, parsed by each peer.
struct Peers {
    apache: apache_avro::Schema,
    fast: serde_avro_fast::Schema,
}

impl Peers {
    fn of<R: Record>() -> Self {
        Self {
            apache: apache_avro::Schema::parse_str(R::SCHEMA).expect("a schema"),
            fast: R::SCHEMA.parse().expect("a schema"),
        }
    }

    fn reader(&self) -> GenericDatumReader<'_> {
        GenericDatumReader::builder(&self.apache)
            .build()
            .expect("a reader")
    }

    fn writer(&self) -> GenericDatumWriter<'_> {
        GenericDatumWriter::builder(&self.apache)
            .build()
            .expect("a writer")
    }

    fn fast_read<'a, T: serde::Deserialize<'a>>(&self, bytes: &'a [u8]) -> T {
        serde_avro_fast::from_datum_slice(bytes, &self.fast).expect("valid bytes")
    }
}

fn encode<R: Sample>(c: &mut Criterion) {
    let mut group = c.benchmark_group(format!("encode/{}", R::NAME));
    let peers = Peers::of::<R>();
    for len in PAYLOAD_LENS {
        let record = R::sample(len);
        let owned = record.to_owned_form();
        let bytes = record.encode_to_bytes();
        let tree = peers
            .reader()
            .read_value(&mut &bytes[..])
            .expect("valid bytes");
        let mut out = Vec::with_capacity(2 * bytes.len());

        case(&mut group, "kjob into reused", len, || {
            out.clear();
            black_box(&record).encode_into(&mut out);
        });
        case(&mut group, "kjob", len, || {
            black_box(&record).encode_to_bytes()
        });
        case(&mut group, "kjob segments", len, || {
            black_box(&record).encode_segments()
        });
        let mut config = SerializerConfig::new(&peers.fast);
        let mut reused = Some(Vec::with_capacity(2 * bytes.len()));
        case(&mut group, "serde_avro_fast into reused", len, || {
            let mut out = reused.take().unwrap_or_default();
            out.clear();
            reused = serde_avro_fast::to_datum(black_box(&owned), out, &mut config).ok();
        });
        case(&mut group, "serde_avro_fast", len, || {
            serde_avro_fast::to_datum_vec(black_box(&owned), &mut config)
        });
        let writer = peers.writer();
        case(&mut group, "apache-avro serde", len, || {
            writer.write_ser_to_vec(black_box(&owned))
        });
        case(&mut group, "apache-avro value", len, || {
            let mut out = Vec::new();
            writer
                .write_value_ref(&mut out, black_box(&tree))
                .map(|_| out)
        });
        let mut out = Vec::with_capacity(2 * bytes.len());
        case(&mut group, "apache-avro value into reused", len, || {
            out.clear();
            writer.write_value_ref(&mut out, black_box(&tree))
        });
        memcpy(&mut group, &bytes, len);
    }
}

fn decode<R: Sample>(c: &mut Criterion) {
    let mut group = c.benchmark_group(format!("decode/{}", R::NAME));
    let peers = Peers::of::<R>();
    let limits = Limits::default();
    for len in PAYLOAD_LENS {
        let bytes = R::sample(len).encode_to_bytes();

        case(&mut group, "kjob", len, || {
            R::decode_binary(black_box(&bytes).clone(), &limits)
        });
        case(&mut group, "serde_avro_fast borrowed", len, || {
            peers.fast_read::<R::Borrowed<'_>>(black_box(&bytes))
        });
        case(&mut group, "serde_avro_fast owned", len, || {
            peers.fast_read::<R::Owned>(black_box(&bytes))
        });
        let reader = peers.reader();
        case(&mut group, "apache-avro serde", len, || {
            reader.read_deser::<R::Owned>(&mut black_box(&bytes[..]))
        });
        case(&mut group, "apache-avro value", len, || {
            reader.read_value(&mut black_box(&bytes[..]))
        });
        memcpy(&mut group, &bytes, len);
    }
}

fn encode_reply(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode/reply");
    let (inner, outer) = (Peers::of::<GetJobResponse>(), Peers::of::<Envelope>());
    for len in PAYLOAD_LENS {
        let record = GetJobResponse::sample(len);
        let owned = record.to_owned_form();
        let bytes = reply_ok(&record, Encoding::Binary).into_bytes();

        case(&mut group, "kjob segments", len, || {
            reply_ok(black_box(&record), Encoding::Binary)
        });
        case(&mut group, "kjob", len, || {
            reply_ok(black_box(&record), Encoding::Binary).into_bytes()
        });
        let (mut inner_config, mut outer_config) = (
            SerializerConfig::new(&inner.fast),
            SerializerConfig::new(&outer.fast),
        );
        case(&mut group, "serde_avro_fast", len, || {
            let data = serde_avro_fast::to_datum_vec(black_box(&owned), &mut inner_config);
            let envelope = around(data.expect("a valid record"));
            serde_avro_fast::to_datum_vec(&envelope, &mut outer_config)
        });
        let (inner_writer, outer_writer) = (inner.writer(), outer.writer());
        case(&mut group, "apache-avro serde", len, || {
            let data = inner_writer.write_ser_to_vec(black_box(&owned));
            outer_writer.write_ser_to_vec(&around(data.expect("a valid record")))
        });
        memcpy(&mut group, &bytes, len);
    }
}

fn decode_reply(c: &mut Criterion) {
    type Inner = <GetJobResponse as Sample>::Owned;
    let mut group = c.benchmark_group("decode/reply");
    let (inner, outer) = (Peers::of::<GetJobResponse>(), Peers::of::<Envelope>());
    let limits = Limits::default();
    for len in PAYLOAD_LENS {
        let bytes = reply_ok(&GetJobResponse::sample(len), Encoding::Binary).into_bytes();

        case(&mut group, "kjob", len, || {
            Reply::<GetJobResponse>::decode(Encoding::Binary, black_box(&bytes).clone(), &limits)
        });
        case(&mut group, "serde_avro_fast owned", len, || {
            let envelope: EnvelopeBorrowed<'_> = outer.fast_read(black_box(&bytes));
            inner.fast_read::<Inner>(envelope.data)
        });
        let (inner_reader, outer_reader) = (inner.reader(), outer.reader());
        case(&mut group, "apache-avro serde", len, || {
            let envelope: EnvelopeOwned = outer_reader
                .read_deser(&mut black_box(&bytes[..]))
                .expect("valid bytes");
            inner_reader.read_deser::<Inner>(&mut &envelope.data[..])
        });
        memcpy(&mut group, &bytes, len);
    }
}

fn around(data: Vec<u8>) -> EnvelopeOwned {
    EnvelopeOwned {
        status: "OK".to_owned(),
        message: String::new(),
        data_type: GetJobResponse::NAME.to_owned(),
        data,
        data_str: String::new(),
    }
}

fn case<T>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    payload_len: usize,
    mut run: impl FnMut() -> T,
) {
    group.bench_function(BenchmarkId::new(name, payload_len), |bencher| {
        bencher.iter(&mut run)
    });
}

/// The floor: as many bytes into a buffer that is there already.
fn memcpy(group: &mut BenchmarkGroup<'_, WallTime>, bytes: &Bytes, payload_len: usize) {
    let mut out = vec![0; bytes.len()];
    case(group, "memcpy", payload_len, || {
        black_box(&mut out[..]).copy_from_slice(black_box(bytes))
    });
}
