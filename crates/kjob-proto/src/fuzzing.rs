//! What the fuzz targets check. Not for users: no promise holds for what is in here.
//!
//! The targets in `fuzz/` are one line each; the properties stand here, so that a plain test replays the
//! inputs in `fuzz/corpus` through the same functions.

use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;
use bytes::Bytes;
use serde_json::Value as Json;

use crate::*;

/// `/create/job`.
pub fn decode_create_job(data: &[u8]) {
    binary::<CreateJobRequest>(data);
    binary::<CreateJobResponse>(data);
}

/// `/get/job`.
pub fn decode_get_job(data: &[u8]) {
    binary::<GetJobRequest>(data);
    binary::<GetJobResponse>(data);
}

/// `/admin/show/jobs`.
pub fn decode_show_jobs(data: &[u8]) {
    binary::<AdminShowJobsRequest>(data);
    binary::<AdminShowJobsResponse>(data);
}

/// `/admin/alter/jobs`.
pub fn decode_alter_jobs(data: &[u8]) {
    binary::<AdminAlterJobsRequest>(data);
    binary::<AdminAlterJobsResponse>(data);
}

/// `/show/system/status` and `/show/system/properties`.
pub fn decode_system(data: &[u8]) {
    binary::<ShowSystemStatusRequest>(data);
    binary::<ShowSystemStatusResponse>(data);
    binary::<ShowSystemPropertiesRequest>(data);
    binary::<ShowSystemPropertiesResponse>(data);
}

/// The envelope, alone and as a reply.
pub fn decode_envelope(data: &[u8]) {
    binary::<Envelope>(data);
    for_each_record(Replies(data));
}

/// JSON, as each record and by both readers.
pub fn decode_json(data: &[u8]) {
    for_each_record(JsonRecords(data));
}

/// A snappy block, alone and as each record.
pub fn decode_snappy(data: &[u8]) {
    let limits = Limits::default();
    if let Ok(plain) = snappy::decompress(data, &limits) {
        assert!(plain.len() <= limits.max_decompressed);
        assert_eq!(
            snappy::decompress(&snappy::compress(&plain), &limits),
            Ok(plain)
        );
    }
    for_each_record(SnappyRecords(data));
}

/// The first byte picks a record; the rest is read by us and by apache-avro.
pub fn diff_apache_avro(data: &[u8]) {
    if let Some((pick, data)) = data.split_first() {
        for_each_record(Diff {
            pick: usize::from(*pick),
            data,
            index: 0,
        });
    }
}

/// The first byte picks a schema; the rest is binary or JSON.
#[cfg(feature = "dynamic")]
pub fn dynamic(data: &[u8]) {
    use crate::dynamic::Schema;

    let Some((pick, data)) = data.split_first() else {
        return;
    };
    let schemas = [
        CreateJobRequest::SCHEMA,
        AdminShowJobsResponse::SCHEMA,
        ALL_TYPES,
    ];
    let Some(text) = schemas.get(usize::from(*pick) % schemas.len()) else {
        return;
    };
    let Ok(schema) = Schema::parse(text) else {
        panic!("the schemas here are valid")
    };
    let limits = Limits::default();

    let json = schema.binary_to_json(data, &limits);
    assert_eq!(
        json.as_ref().map(drop),
        schema.check_binary(data, &limits).as_ref().map(drop)
    );
    let texts = [json.ok(), std::str::from_utf8(data).ok().map(str::to_owned)];
    for text in texts.into_iter().flatten() {
        // A second time around, nothing changes any more; float payloads of NaN are one.
        if let Ok(binary) = schema.json_to_binary(&text, &limits) {
            let again = schema.binary_to_json(&binary, &limits);
            let again = again.unwrap_or_else(|error| panic!("{error} in what was written"));
            assert_eq!(schema.json_to_binary(&again, &limits), Ok(binary));
        }
    }
}

#[cfg(feature = "dynamic")]
const ALL_TYPES: &str = r#"{"type":"record","name":"all","fields":[
    {"name":"flag","type":"boolean"},
    {"name":"int","type":"int"},
    {"name":"float","type":"float"},
    {"name":"double","type":"double"},
    {"name":"bytes","type":"bytes","default":"x"},
    {"name":"fixed","type":{"type":"fixed","name":"three","size":3}},
    {"name":"enum","type":{"type":"enum","name":"suit","symbols":["HEARTS","SPADES"]}},
    {"name":"array","type":{"type":"array","items":"null"}},
    {"name":"map","type":{"type":"map","values":["null","string","three"]}},
    {"name":"next","type":["null","all"],"default":null}
]}"#;

/// Something to do with each record.
trait ForEach {
    fn call<R: Record>(&mut self);
}

fn for_each_record(mut each: impl ForEach) {
    each.call::<CreateJobRequest>();
    each.call::<CreateJobResponse>();
    each.call::<GetJobRequest>();
    each.call::<GetJobResponse>();
    each.call::<AdminShowJobsRequest>();
    each.call::<AdminShowJobsResponse>();
    each.call::<AdminAlterJobsRequest>();
    each.call::<AdminAlterJobsResponse>();
    each.call::<ShowSystemStatusRequest>();
    each.call::<ShowSystemStatusResponse>();
    each.call::<ShowSystemPropertiesRequest>();
    each.call::<ShowSystemPropertiesResponse>();
    each.call::<Envelope>();
}

struct Replies<'a>(&'a [u8]);

impl ForEach for Replies<'_> {
    fn call<R: Record>(&mut self) {
        for encoding in Encoding::ALL {
            let (body, limits) = (Bytes::copy_from_slice(self.0), Limits::default());
            match Reply::<R>::decode(encoding, body, &limits) {
                Ok(Ok(record)) => {
                    let body = reply_ok(&record, encoding).into_bytes();
                    assert_eq!(Reply::<R>::decode(encoding, body, &limits), Ok(Ok(record)));
                }
                Ok(Err(error)) => {
                    let body = reply_error(&error.message, encoding).into_bytes();
                    let Ok(Err(error)) = Reply::<R>::decode(encoding, body, &limits) else {
                        panic!("an error stays an error")
                    };
                    assert!(
                        !error.message.is_empty() && !failover::contains_phrase(&error.message)
                    );
                }
                Err(_) => {}
            }
        }
    }
}

struct JsonRecords<'a>(&'a [u8]);

impl ForEach for JsonRecords<'_> {
    fn call<R: Record>(&mut self) {
        let body = Bytes::copy_from_slice(self.0);
        crate::json::check_readers::<R>(&body, &Limits::default());
        if let Ok(record) = R::decode_json(body, &Limits::default()) {
            round_trip(&record);
        }
    }
}

struct SnappyRecords<'a>(&'a [u8]);

impl ForEach for SnappyRecords<'_> {
    fn call<R: Record>(&mut self) {
        let body = Bytes::copy_from_slice(self.0);
        if let Ok(record) = R::decode(Encoding::Snappy, body, &Limits::default()) {
            round_trip(&record);
        }
    }
}

fn binary<R: Record>(data: &[u8]) {
    if let Ok(record) = R::decode_binary(Bytes::copy_from_slice(data), &Limits::default()) {
        // What we write is the shortest form that there is.
        assert!(record.encoded_len() <= data.len());
        round_trip(&record);
    }
}

fn round_trip<R: Record>(record: &R) {
    let (binary, limits) = (record.encode_to_bytes(), Limits::default());
    assert_eq!(binary.len(), record.encoded_len());
    assert_eq!(record.encode_segments().into_bytes(), binary);
    assert_eq!(R::decode_binary(binary, &limits).as_ref(), Ok(record));
    let json = record.encode_json();
    assert!(json.is_ascii());
    assert_eq!(
        R::decode_json(Bytes::from(json), &limits).as_ref(),
        Ok(record)
    );
}

struct Diff<'a> {
    pick: usize,
    data: &'a [u8],
    index: usize,
}

impl ForEach for Diff<'_> {
    fn call<R: Record>(&mut self) {
        if self.index == self.pick % 13 {
            diff::<R>(self.data);
        }
        self.index += 1;
    }
}

fn diff<R: Record>(data: &[u8]) {
    // It allocates what a length announces, up to a process-wide limit that is set once.
    apache_avro::util::max_allocation_bytes(1 << 20);
    let Ok(schema) = apache_avro::Schema::parse_str(R::SCHEMA) else {
        panic!("{}", R::NAME)
    };
    let (Ok(reader), Ok(writer)) = (
        GenericDatumReader::builder(&schema).build(),
        GenericDatumWriter::builder(&schema).build(),
    ) else {
        panic!("{}", R::NAME)
    };
    let mut rest = data;
    let theirs = reader.read_value(&mut rest);
    match R::decode_binary(Bytes::copy_from_slice(data), &Limits::default()) {
        // What we take, it takes, and finds the same in it.
        Ok(record) => {
            let theirs = theirs.unwrap_or_else(|error| panic!("{record:?}: {error}"));
            assert!(rest.is_empty());
            assert_eq!(plain(&theirs), as_json(&record));
        }
        // What it takes and we do not is one of its liberties; but written by it anew, we take it.
        Err(_) => {
            let Ok(theirs) = theirs else { return };
            // Text that is cut short is a null to it, which it cannot write.
            let Ok(bytes) = writer.write_value_to_vec(theirs.clone()) else {
                return;
            };
            match R::decode_binary(Bytes::from(bytes), &Limits::default()) {
                Ok(record) => assert_eq!(plain(&theirs), as_json(&record)),
                Err(error) => panic!("{error}"),
            }
        }
    }
}

fn as_json<R: Record>(record: &R) -> Json {
    serde_json::from_slice(&record.encode_json()).unwrap_or_else(|error| panic!("{error}"))
}

/// apache-avro's tree as plain JSON, for the types that the records have.
fn plain(value: &Value) -> Json {
    match value {
        Value::Boolean(value) => Json::from(*value),
        Value::Int(value) => Json::from(*value),
        Value::Long(value) => Json::from(*value),
        Value::String(text) => Json::from(text.as_str()),
        Value::Bytes(bytes) => bytes
            .iter()
            .copied()
            .map(char::from)
            .collect::<String>()
            .into(),
        Value::Array(items) => items.iter().map(plain).collect(),
        Value::Map(map) => map
            .iter()
            .map(|(key, value)| (key.clone(), plain(value)))
            .collect(),
        Value::Record(fields) => fields
            .iter()
            .map(|(name, value)| (name.clone(), plain(value)))
            .collect(),
        other => panic!("no record has {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// Every input that is kept, seeds and finds alike, through the function of its target.
    #[test]
    fn the_corpus_holds() {
        type Target = (&'static str, fn(&[u8]));
        let targets: &[Target] = &[
            ("decode_create_job", decode_create_job),
            ("decode_get_job", decode_get_job),
            ("decode_show_jobs", decode_show_jobs),
            ("decode_alter_jobs", decode_alter_jobs),
            ("decode_system", decode_system),
            ("decode_envelope", decode_envelope),
            ("decode_json", decode_json),
            ("decode_snappy", decode_snappy),
            ("diff_apache_avro", diff_apache_avro),
            #[cfg(feature = "dynamic")]
            ("dynamic", dynamic),
        ];
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
        if !corpus.exists() {
            // The crate alone, outside of its repository.
            return;
        }
        for (target, check) in targets {
            let mut inputs = 0;
            for input in fs::read_dir(corpus.join(target)).unwrap() {
                check(&fs::read(input.unwrap().path()).unwrap());
                inputs += 1;
            }
            assert!(inputs > 0, "{target} has no seeds");
        }
    }
}
