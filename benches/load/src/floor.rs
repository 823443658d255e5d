//! The floors: what a server over hyper can do at most, and what the disk can.

mod pages;
mod synced;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
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
use pages::Pages;
use synced::Appender;

/// The word that makes this program the floor's server.
pub(crate) const SERVER_WORD: &str = "floor-server";

/// What it answers, as long as a submit's answer is without its head.
static ANSWER: [u8; 100] = [b'a'; 100];

/// When it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answers {
    /// As soon as it has the body, which it forgets.
    AtOnce,
    /// Once the body is on disk: the least that a server with durable answers can do.
    Synced,
    /// Once it has read as many pages of the files in its directory as a job among many has rows.
    Read,
}

/// The same for its process.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct ServerArgs {
    /// Append bodies to a file here, and sync it before they are answered
    #[arg(long, value_name = "DIR")]
    synced_in: Option<PathBuf>,
    /// Read some pages of the files here before each answer
    #[arg(long, value_name = "DIR")]
    pages_of: Option<PathBuf>,
}

/// What has to be done before an answer.
#[derive(Clone, Debug, Default)]
struct Work {
    appender: Option<Appender>,
    pages: Option<Pages>,
}

/// Starts the server as a process, whose log is in `home`, and that works on the files in `dir`.
///
/// # Errors
/// It does not get ready.
pub(crate) fn start(home: &Path, answers: Answers, dir: &Path) -> Result<Server> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(SERVER_WORD);
    match answers {
        Answers::AtOnce => {}
        Answers::Synced => drop(command.arg("--synced-in").arg(dir)),
        Answers::Read => drop(command.arg("--pages-of").arg(dir)),
    }
    announced(command, home)
}

/// Is the server: hyper and tokio as kjob-server has them, a body read whole, and a fixed answer, after what is to be done
/// before it.
///
/// # Errors
/// It cannot listen, or write or read there.
pub(crate) fn serve(args: &ServerArgs) -> Result<()> {
    let work = Work {
        appender: args.synced_in.as_deref().map(Appender::start).transpose()?,
        pages: args.pages_of.as_deref().map(Pages::of).transpose()?,
    };
    // As many threads as kjob-server has for its connections.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let mut out = std::io::stdout();
        writeln!(out, "listening on {}", listener.local_addr()?)?;
        out.flush()?;
        accept(listener, work).await
    })
}

async fn accept(listener: TcpListener, work: Work) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let work = work.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(request, work.clone()));
            // A client that goes ends its connection, which is no matter.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(request: Request<Incoming>, work: Work) -> Result<Response<Full<Bytes>>> {
    let body = request.into_body().collect().await?.to_bytes();
    if let Some(appender) = work.appender {
        appender.append(body).await?;
    }
    if let Some(pages) = work.pages {
        pages.read()?;
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::{SocketAddr, TcpStream};

    /// Posts a body, and returns once it is answered as it has to be.
    fn post(address: SocketAddr, body: &[u8]) {
        let mut stream = TcpStream::connect(address).unwrap();
        let mut post = Post::new(body);
        stream.write_all(post.request()).unwrap();
        let (mut input, mut part) = (Vec::new(), [0; 1024]);
        while post.hear(&input).unwrap() == Heard::Part {
            let read = stream.read(&mut part).unwrap();
            assert!(read > 0, "no answer");
            input.extend_from_slice(&part[..read]);
        }
    }

    #[test]
    fn what_is_answered_is_in_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let work = Work {
            appender: Some(Appender::start(dir.path()).unwrap()),
            ..Work::default()
        };
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.enable_all().build().unwrap();
        let bound = runtime.block_on(TcpListener::bind(("127.0.0.1", 0)));
        let listener = bound.unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(accept(listener, work));
        let mut expected = Vec::new();
        for body in [&b"one"[..], &[b'2'; 64 << 10], b"three"] {
            post(address, body);
            expected.extend_from_slice(body);
            let written = std::fs::read(dir.path().join(synced::FILE)).unwrap();
            assert!(written == expected, "{} bytes", written.len());
        }
    }
}
