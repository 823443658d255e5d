//! The floors: what a server over hyper can do at most, and what the disk can.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use hdrhistogram::Histogram;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::generator::{Conversation, Heard, Load, histogram};
use crate::http;
use crate::process::{Server, announced};

/// The word that makes this program the floor's server.
pub(crate) const SERVER_WORD: &str = "floor-server";

/// What it answers, as long as a submit's answer is without its head.
static ANSWER: [u8; 100] = [b'a'; 100];

/// Starts the server as a process.
///
/// # Errors
/// It does not get ready.
pub(crate) fn start(home: &Path) -> Result<Server> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(SERVER_WORD);
    announced(command, home)
}

/// Is the server: hyper and tokio as kjob-server has them, a body read whole, and a fixed answer.
///
/// # Errors
/// It cannot listen.
pub(crate) fn serve() -> Result<()> {
    // As many threads as kjob-server has for its connections.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let mut out = std::io::stdout();
        writeln!(out, "listening on {}", listener.local_addr()?)?;
        out.flush()?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(async move {
                let service = service_fn(answer);
                // A client that goes ends its connection, which is no matter.
                let _ = http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    })
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    request.into_body().collect().await?.to_bytes();
    Ok(Response::new(Full::new(Bytes::from_static(&ANSWER))))
}

/// Posts bodies to it.
#[derive(Debug)]
pub(crate) struct Post(Vec<u8>);

impl Post {
    pub(crate) fn new(body: &[u8]) -> Self {
        Self(http::post("/create/job", body))
    }
}

impl Conversation for Post {
    fn request(&self) -> &[u8] {
        &self.0
    }

    fn hear(&mut self, input: &[u8]) -> Result<Heard> {
        let Some(answer) = http::answer(input)? else {
            return Ok(Heard::Part);
        };
        if answer.body != ANSWER {
            bail!("the floor answered {} bytes", answer.body.len());
        }
        Ok(Heard::Answer {
            len: answer.len,
            ends: true,
        })
    }
}

/// Appends bytes so many times to a file, then syncs all of them at once, again and again.
///
/// # Errors
/// The disk's.
pub(crate) fn syncs(home: &Path, bytes: &[u8], together: usize, time: Duration) -> Result<Load> {
    let mut file = File::create_new(home.join("appended")).context("a file to append to")?;
    let mut latencies: Histogram<u64> = histogram()?;
    let begin = Instant::now();
    let mut now = begin;
    while now - begin < time {
        for _ in 0..together {
            file.write_all(bytes)?;
        }
        file.sync_data()?;
        let then = Instant::now();
        latencies.saturating_record_n((then - now).as_nanos() as u64, together as u64);
        now = then;
    }
    Ok(Load { latencies, time })
}
