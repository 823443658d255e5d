//! The load: conversations over sockets, each with one request in flight.
//!
//! It shares the processors with the server that it measures, so it does little: one thread waits for many
//! sockets, requests are bytes that stand ready, and no request allocates.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

/// One side of a connection: what is asked next, and whether the answer is right.
pub(crate) trait Conversation: Send {
    /// The request that is to be sent, or is being sent.
    fn request(&self) -> &[u8];

    /// Reads what has come. After a whole answer, [`request`](Self::request) is the next one.
    ///
    /// # Errors
    /// The answer is not what it has to be.
    fn hear(&mut self, input: &[u8]) -> Result<Heard>;
}

/// What a conversation makes of the bytes that have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// There have to be more.
    Part,
    /// An answer of so many bytes. It may end what is counted and timed: a request, or a whole life.
    Answer { len: usize, ends: bool },
}

/// For how long to load, and with how many threads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Not measured.
    pub(crate) warm_up: Duration,
    /// Measured.
    pub(crate) time: Duration,
    pub(crate) threads: usize,
}

/// What came of a load.
#[derive(Debug)]
pub(crate) struct Load {
    /// Of everything that ended in the measured time, in nanoseconds.
    pub(crate) latencies: Histogram<u64>,
    /// The measured time.
    pub(crate) time: Duration,
}

/// From 100 ns to a minute, to a thousandth.
pub(crate) fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(100, 60_000_000_000, 3)?)
}

/// Has all conversations at once, each over a connection of its own to the servers in turn, and gives them
/// back.
/// `at` is called at the beginning and at the end of the measured time.
///
/// # Errors
/// A connection ended, or an answer was wrong.
pub(crate) fn load<C: Conversation>(
    servers: &[SocketAddr],
    conversations: Vec<C>,
    pace: Pace,
    mut at: impl FnMut(),
) -> Result<(Load, Vec<C>)> {
    let each = conversations.len().div_ceil(pace.threads.max(1));
    let mut connections = Vec::new();
    for (conversation, server) in conversations.into_iter().zip(servers.iter().cycle()) {
        connections.push(Connection::open(*server, conversation)?);
    }
    let begin = Instant::now() + pace.warm_up;
    let end = begin + pace.time;
    let mut latencies = histogram()?;
    let mut conversations = Vec::new();
    thread::scope(|scope| {
        let mut threads = Vec::new();
        while !connections.is_empty() {
            let own = connections.split_off(connections.len() - each.min(connections.len()));
            threads.push(scope.spawn(move || drive(own, begin, end)));
        }
        for moment in [begin, end] {
            // A thread that ends before the time has an error to tell.
            while Instant::now() < moment && !threads.iter().all(|it| it.is_finished()) {
                let left = moment.saturating_duration_since(Instant::now());
                thread::sleep(left.min(Duration::from_millis(50)));
            }
            at();
        }
        for thread in threads {
            let ended = thread.join();
            let (own, back) = ended.ok().context("the load's thread panicked")??;
            latencies.add(own)?;
            conversations.extend(back);
        }
        anyhow::Ok(())
    })?;
    let load = Load {
        latencies,
        time: pace.time,
    };
    Ok((load, conversations))
}

/// How much of an answer is read at a time, to begin with.
const INPUT: usize = 16 << 10;

struct Connection<C> {
    stream: TcpStream,
    conversation: C,
    /// How much of the request is sent.
    sent: usize,
    /// When the first request of what is timed was sent.
    begun: Instant,
    input: Vec<u8>,
    filled: usize,
}

type Driven<C> = (Histogram<u64>, Vec<C>);

fn drive<C: Conversation>(
    mut connections: Vec<Connection<C>>,
    begin: Instant,
    end: Instant,
) -> Result<Driven<C>> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1024);
    let mut latencies = histogram()?;
    let interest = Interest::READABLE | Interest::WRITABLE;
    for (place, connection) in connections.iter_mut().enumerate() {
        let registry = poll.registry();
        registry.register(&mut connection.stream, Token(place), interest)?;
        connection.begun = Instant::now();
        connection.send()?;
    }
    loop {
        let now = Instant::now();
        if now >= end {
            break;
        }
        match poll.poll(&mut events, Some(end - now)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        for event in &events {
            let Some(connection) = connections.get_mut(event.token().0) else {
                continue;
            };
            if event.is_writable() && connection.sent > 0 {
                connection.send()?;
            }
            if event.is_readable() {
                connection.receive(|begun, ended| {
                    if (begin..end).contains(&ended) {
                        latencies.saturating_record((ended - begun).as_nanos() as u64);
                    }
                })?;
            }
        }
    }
    let conversations = connections.into_iter().map(|it| it.conversation).collect();
    Ok((latencies, conversations))
}

impl<C: Conversation> Connection<C> {
    fn open(server: SocketAddr, conversation: C) -> Result<Self> {
        let stream = std::net::TcpStream::connect(server)
            .with_context(|| format!("cannot connect to {server}"))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream: TcpStream::from_std(stream),
            conversation,
            sent: 0,
            begun: Instant::now(),
            input: vec![0; INPUT],
            filled: 0,
        })
    }

    /// Sends what the socket takes of what is left of the request. Readiness is told once each time it
    /// comes, so this goes on until all is sent or the socket is full.
    fn send(&mut self) -> Result<()> {
        loop {
            let request = self.conversation.request();
            let left = request.get(self.sent..).unwrap_or_default();
            if left.is_empty() {
                return Ok(());
            }
            match self.stream.write(left) {
                Ok(0) => bail!("the server takes no more"),
                Ok(written) => self.sent += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("the request could not be sent"),
            }
        }
    }

    /// Reads what is there, and sends the next request after each whole answer.
    fn receive(&mut self, mut ended: impl FnMut(Instant, Instant)) -> Result<()> {
        loop {
            let room = self.input.get_mut(self.filled..).unwrap_or_default();
            let capacity = room.len();
            let read = match self.stream.read(room) {
                Ok(0) => bail!("the server closed a connection"),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).context("the answer could not be read"),
            };
            self.filled += read;
            self.answer(&mut ended)?;
            // A read that did not fill the buffer has emptied the socket.
            if read < capacity {
                return Ok(());
            }
            if self.filled == self.input.len() {
                self.input.resize(self.input.len() * 2, 0);
            }
        }
    }

    fn answer(&mut self, mut ended: impl FnMut(Instant, Instant)) -> Result<()> {
        let input = self.input.get(..self.filled).unwrap_or_default();
        let Heard::Answer { len, ends } = self.conversation.hear(input)? else {
            return Ok(());
        };
        if len != self.filled {
            let excess = String::from_utf8_lossy(input.get(len..).unwrap_or_default());
            bail!("more than was asked for: {excess:.200}");
        }
        self.filled = 0;
        self.sent = 0;
        if ends {
            let now = Instant::now();
            ended(self.begun, now);
            self.begun = now;
        }
        self.send()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// Longer than any test takes that ends by itself.
    const LONG: Pace = Pace {
        warm_up: Duration::ZERO,
        time: Duration::from_secs(60),
        threads: 2,
    };

    /// Asks for an echo of some bytes, a number of times, and then has had enough.
    struct Echo {
        request: Vec<u8>,
        left: usize,
    }

    impl Conversation for Echo {
        fn request(&self) -> &[u8] {
            &self.request
        }

        fn hear(&mut self, input: &[u8]) -> Result<Heard> {
            if input.len() < self.request.len() {
                return Ok(Heard::Part);
            }
            self.left = self.left.checked_sub(1).context("enough")?;
            let len = self.request.len();
            if !input.starts_with(&self.request) {
                bail!("no echo");
            }
            Ok(Heard::Answer { len, ends: true })
        }
    }

    /// A server that sends back what `back` makes of what comes.
    fn server(back: fn(&[u8]) -> Vec<u8>) -> SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                thread::spawn(move || {
                    let mut buffer = vec![0; 1 << 20];
                    while let Ok(read @ 1..) = stream.read(&mut buffer) {
                        if stream.write_all(&back(&buffer[..read])).is_err() {
                            break;
                        }
                    }
                });
            }
        });
        address
    }

    fn error(back: fn(&[u8]) -> Vec<u8>, request_len: usize) -> String {
        let echo = |_| Echo {
            request: vec![b'e'; request_len],
            left: 100,
        };
        let conversations = (0..3).map(echo).collect();
        let error = load(&[server(back)], conversations, LONG, || ()).err();
        format!("{:#}", error.unwrap())
    }

    /// Requests and answers that do not fit a buffer or a socket come in parts.
    #[test]
    fn all_is_sent_and_read_whatever_its_size() {
        for len in [1, 100, INPUT, INPUT + 1, 3 << 20] {
            assert_eq!(error(<[u8]>::to_vec, len), "enough", "{len}");
        }
    }

    #[test]
    fn what_is_wrong_ends_the_load() {
        let wrong = |bytes: &[u8]| vec![b'x'; bytes.len()];
        assert_eq!(error(wrong, 10), "no echo");
        let more = |bytes: &[u8]| [bytes, b"more"].concat();
        assert!(error(more, 10).contains("more than"), "{}", error(more, 10));
    }

    #[test]
    fn a_server_that_goes_ends_the_load() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            // What is not read would make a close a reset.
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_exact(&mut [0; 10]).unwrap();
        });
        let echo = Echo {
            request: vec![b'e'; 10],
            left: 1,
        };
        let error = load(&[address], vec![echo], LONG, || ()).err().unwrap();
        let error = format!("{error:#}");
        assert!(
            error.contains("closed") || error.contains("reset"),
            "{error}"
        );
    }
}
