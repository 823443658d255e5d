//! What `cargo xtask instructions` counts: one piece of work for each run of this program, under callgrind.
//!
//! Without an argument it prints the names of all cases, one a line. With the name of a case it does the work once
//! to warm up, and once more in [`counted`], outside of which callgrind does not count. To add a case, add a line to
//! [`CASES`]: a name, and a function that prepares what the work needs and gives the work.

#![allow(clippy::print_stdout, reason = "its output is read by a program")]

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kjob_benches::samples::{self, Sample};
use kjob_core::engine::{
    Caller, Engine, EngineConfig, HandlerError, JobContext, JobKey, Registry, RouteOptions,
    Submission, SystemClock,
};
use kjob_core::{Ending, MemoryStore, Output, Owner, Payload};
use kjob_proto::{
    CreateJobRequest, Encoding, Envelope, GetJobResponse, Limits, Record, Reply, reply_ok,
};

/// The payload of the records, in bytes.
const PAYLOAD_LEN: usize = 256;

/// Lives of a job that are counted together, so that what happens now and then weighs as it should.
const LIVES: usize = 100;

/// Work that can be done again.
type Work = Box<dyn FnMut()>;

/// A name, and what prepares the work.
type Case = (&'static str, fn() -> Work);

/// What is counted. Names stay as they are: the counts of before are found by them.
const CASES: &[Case] = &[
    ("encode create_job_request", encode::<CreateJobRequest>),
    ("encode get_job_response", encode::<GetJobResponse>),
    ("encode gpudb_response", encode::<Envelope>),
    ("decode create_job_request", decode::<CreateJobRequest>),
    ("decode get_job_response", decode::<GetJobResponse>),
    ("decode gpudb_response", decode::<Envelope>),
    ("encode reply", encode_reply),
    ("decode reply", decode_reply),
    (
        "encode json create_job_request",
        encode_json::<CreateJobRequest>,
    ),
    (
        "encode json get_job_response",
        encode_json::<GetJobResponse>,
    ),
    (
        "decode json create_job_request",
        decode_json::<CreateJobRequest>,
    ),
    (
        "decode json get_job_response",
        decode_json::<GetJobResponse>,
    ),
    ("encode json bytes", || encode_large("bytes")),
    ("encode json json", || encode_large("json")),
    ("encode json text", || encode_large("text")),
    ("decode json bytes", || decode_large("bytes")),
    ("decode json json", || decode_large("json")),
    ("decode json text", || decode_large("text")),
    ("100 lives through the engine", lives),
];

fn main() -> ExitCode {
    let Some(wanted) = std::env::args().nth(1) else {
        CASES.iter().for_each(|(name, _)| println!("{name}"));
        return ExitCode::SUCCESS;
    };
    let Some((_, prepare)) = CASES.iter().find(|(name, _)| *name == wanted) else {
        println!("no case {wanted:?}");
        return ExitCode::FAILURE;
    };
    let mut work = prepare();
    work();
    counted(&mut work);
    ExitCode::SUCCESS
}

/// Callgrind finds it by its name.
#[inline(never)]
fn counted(work: &mut Work) {
    work();
}

fn encode<R: Sample>() -> Work {
    let record = R::sample(PAYLOAD_LEN);
    let mut out = Vec::with_capacity(2 * record.encoded_len());
    Box::new(move || {
        out.clear();
        black_box(&record).encode_into(&mut out);
        black_box(&out);
    })
}

fn decode<R: Sample>() -> Work {
    let bytes = R::sample(PAYLOAD_LEN).encode_to_bytes();
    decoding(bytes, |bytes, limits| R::decode_binary(bytes, limits))
}

fn encode_reply() -> Work {
    let record = GetJobResponse::sample(PAYLOAD_LEN);
    Box::new(move || drop(black_box(reply_ok(black_box(&record), Encoding::Binary))))
}

fn decode_reply() -> Work {
    let bytes = reply_ok(&GetJobResponse::sample(PAYLOAD_LEN), Encoding::Binary).into_bytes();
    decoding(bytes, |bytes, limits| {
        Reply::<GetJobResponse>::decode(Encoding::Binary, bytes, limits)
    })
}

fn encode_json<R: Sample>() -> Work {
    json_of(R::sample(PAYLOAD_LEN))
}

fn decode_json<R: Sample>() -> Work {
    of_json::<R>(R::sample(PAYLOAD_LEN).encode_json())
}

fn encode_large(name: &str) -> Work {
    json_of(samples::json_request(name))
}

fn decode_large(name: &str) -> Work {
    of_json::<CreateJobRequest>(samples::json_request(name).encode_json())
}

fn json_of<R: Record>(record: R) -> Work {
    Box::new(move || drop(black_box(black_box(&record).encode_json())))
}

fn of_json<R: Record>(text: Vec<u8>) -> Work {
    decoding(Bytes::from(text), |bytes, limits| {
        R::decode_json(bytes, limits)
    })
}

fn decoding<T: 'static>(bytes: Bytes, decode: fn(Bytes, &Limits) -> T) -> Work {
    let limits = Limits::default();
    Box::new(move || drop(black_box(decode(black_box(&bytes).clone(), &limits))))
}

/// Jobs from submit to result, one after the other, on one thread and a store in memory.
fn lives() -> Work {
    async fn echo(_: JobContext, payload: Payload) -> Result<Payload, HandlerError> {
        Ok(payload)
    }
    let mut registry = Registry::default();
    let options = RouteOptions::default().cooperative();
    registry
        .route("/echo", echo, options)
        .expect("it is the first");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    let (store, clock) = (Arc::new(MemoryStore::new()), Arc::new(SystemClock));
    let engine = Engine::open(store, registry, EngineConfig::default(), clock, 7);
    let engine = runtime.block_on(engine).expect("an empty store");
    let owner = Owner::new("ann");
    let caller = Caller::user(owner.clone());
    let payload = Payload::binary(vec![7; PAYLOAD_LEN]);
    let done = Some(Ending::Done(Output::from(payload.clone())));
    Box::new(move || {
        runtime.block_on(async {
            for _ in 0..LIVES {
                let call = Submission::new(owner.clone(), "/echo", payload.clone());
                let accepted = engine.submit(call).await.expect("there is room");
                let key = JobKey::Id(accepted.id);
                let job = engine.wait(&caller, &key, Duration::from_secs(60)).await;
                assert_eq!(job.expect("it is read").and_then(|job| job.ending), done);
            }
        });
    })
}
