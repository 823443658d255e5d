//! The codecs alone, without a server, a client or a runtime: makes the request of a submit as an official
//! client sends it, and reads the reply of a server.
//!
//! ```console
//! $ cargo run -p kjob-proto --example codec
//! ```

use std::error::Error;

use kjob_proto::{
    CreateJobRequest, CreateJobResponse, Encoding, Limits, Record, Reply, StringMap, Text,
    reply_error, reply_ok,
};

fn main() -> Result<(), Box<dyn Error>> {
    let request = CreateJobRequest {
        endpoint: Text::from_static("/report/daily"),
        request_encoding: Text::from_static("json"),
        data_str: Text::from_static(r#"{"day": "2026-11-24"}"#),
        options: StringMap::from_iter([("job_tag", "report-2026-11-24")]),
        ..Default::default()
    };

    // What goes over the wire: a bare record, in any of the three encodings.
    let limits = Limits::default();
    for encoding in [Encoding::Binary, Encoding::Json, Encoding::Snappy] {
        let body = match encoding {
            Encoding::Binary => request.encode_to_bytes(),
            Encoding::Json => request.encode_json().into(),
            Encoding::Snappy => kjob_proto::snappy::compress(&request.encode_to_bytes()).into(),
        };
        say(&format!("{encoding}: {} bytes", body.len()));
        let read = CreateJobRequest::decode(encoding, body, &limits)?;
        assert_eq!(read, request);
    }

    // What comes back: an envelope, around a record or an error.
    let response = CreateJobResponse {
        job_id: 7,
        ..Default::default()
    };
    let body = reply_ok(&response, Encoding::Binary).into_bytes();
    let reply = Reply::<CreateJobResponse>::decode(Encoding::Binary, body, &limits)?;
    say(&format!("job {}", reply?.job_id));

    let body = reply_error("no such endpoint", Encoding::Json).into_bytes();
    let reply = Reply::<CreateJobResponse>::decode(Encoding::Json, body, &limits)?;
    match reply {
        Err(error) => say(&format!("refused: {error}")),
        Ok(_) => return Err("an error was taken for a success".into()),
    }
    Ok(())
}

#[allow(clippy::print_stdout, reason = "it is what an example is for")]
fn say(line: &str) {
    println!("{line}");
}
