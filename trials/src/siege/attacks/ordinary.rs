//! Requests of ordinary HTTP at all its endpoints, good and mutated, over HTTP/1 and HTTP/2.

use std::sync::{Arc, Mutex, PoisonError};

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::task::JoinSet;

use super::Field;
use crate::siege::http1::{Connection, NoReply, Reply};
use crate::siege::http2_client::{self, Client};
use crate::siege::problems;
use crate::siege::requests::{Asked, Kind, Known};

/// How many attack at once, half of them over HTTP/2.
const ATTACKERS: usize = 16;

/// How many of which requests were done.
#[derive(Debug, Default)]
struct Shares {
    good: Share,
    mutated: Share,
}

#[derive(Debug, Default)]
struct Share {
    all: u64,
    done: u64,
    /// Refused for what they ask for, and not for how they ask.
    understood: u64,
}

/// As many as are asked for, whatever the time.
pub(super) async fn requests(field: Field) {
    let shares = Arc::new(Mutex::new(Shares::default()));
    let mut tasks = JoinSet::new();
    for number in 0..ATTACKERS as u64 {
        let rest = u64::from(number < field.terms.requests % ATTACKERS as u64);
        let attacker = Attacker {
            field: field.clone(),
            count: field.terms.requests / ATTACKERS as u64 + rest,
            random: StdRng::seed_from_u64(field.terms.seed.wrapping_mul(2000) + number),
            known: Known::default(),
            shares: shares.clone(),
        };
        tasks.spawn(async move {
            if number.is_multiple_of(2) {
                attacker.over_http1().await;
            } else {
                attacker.over_http2().await;
            }
        });
    }
    while tasks.join_next().await.is_some() {}
    let shares = shares.lock().unwrap_or_else(PoisonError::into_inner);
    field.tally.note(shares.good.told("good"));
    field.tally.note(shares.mutated.told("mutated"));
}

struct Attacker {
    field: Field,
    count: u64,
    random: StdRng,
    known: Known,
    shares: Arc<Mutex<Shares>>,
}

impl Attacker {
    async fn over_http1(mut self) {
        let mut connection = None;
        for _ in 0..self.count {
            let asked = Asked::draw(&self.known, &mut self.random);
            let mut open = match connection.take() {
                Some(open) => open,
                None => match Connection::open(self.field.server).await {
                    Ok(open) => {
                        self.field.tally.connected();
                        open
                    }
                    Err(error) => {
                        let what = format!("not connected: {error}");
                        return self.field.tally.violation(what);
                    }
                },
            };
            let bytes = asked.to_http1();
            self.field.tally.sent(1, bytes.len());
            match open.ask(&bytes, asked.is_head()).await {
                Ok((reply, is_whole)) => {
                    let closes = reply.header("connection") == Some("close");
                    let stays = !closes && is_whole && !asked.may_be_no_http;
                    self.was_answered(&asked, &reply);
                    connection = stays.then_some(open);
                }
                Err(NoReply::Closed | NoReply::Reset) if asked.may_be_no_http => {
                    self.field.tally.answered("closed");
                }
                // The server may end a connection between two requests, never in one.
                Err(error) => self.went_wrong(&asked, &error.to_string()),
            }
        }
    }

    async fn over_http2(mut self) {
        let mut connection: Option<Client> = None;
        let mut left = self.count;
        while left > 0 {
            let asked = Asked::draw(&self.known, &mut self.random);
            let Some(request) = http2_client::request(&asked, self.field.server) else {
                continue;
            };
            left -= 1;
            let mut open = match connection.take().filter(|open| !open.is_closed()) {
                Some(open) => open,
                None => match Client::open(self.field.server).await {
                    Ok(open) => {
                        self.field.tally.connected();
                        open
                    }
                    Err(error) => {
                        let what = format!("not connected: {error:#}");
                        return self.field.tally.violation(what);
                    }
                },
            };
            let len = asked.target.len() + asked.body.len();
            self.field.tally.sent(1, len);
            match open.ask(request).await {
                Ok(reply) => {
                    self.was_answered(&asked, &reply);
                    connection = Some(open);
                }
                Err(error) => self.went_wrong(&asked, &format!("{error:#}")),
            }
        }
    }

    fn was_answered(&mut self, asked: &Asked, reply: &Reply) {
        match problems::check(reply, asked) {
            Ok(what) => self.field.tally.answered(what),
            Err(why) => self.went_wrong(asked, &why),
        }
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        let share = if asked.is_mutated {
            &mut shares.mutated
        } else {
            &mut shares.good
        };
        share.all += 1;
        share.done += u64::from(reply.status < 400);
        share.understood += u64::from(matches!(reply.status, 409 | 416 | 502));
        drop(shares);
        if asked.kind == Kind::Submit
            && let Some(id) = problems::job_id(reply)
        {
            self.known.job(id);
        }
        if let Some(etag) = reply.header("etag") {
            self.known.etag(etag);
        }
    }

    fn went_wrong(&self, asked: &Asked, why: &str) {
        let (method, target) = (
            String::from_utf8_lossy(&asked.method),
            String::from_utf8_lossy(&asked.target),
        );
        let (target, headers): (String, _) = (target.chars().take(100).collect(), &asked.headers);
        let headers: Vec<String> = headers
            .iter()
            .map(|(name, value)| format!("{name}: {:.60}", String::from_utf8_lossy(value)))
            .collect();
        let what = format!("{method} {target:?} {headers:?}: {why}");
        self.field.tally.violation(what);
    }
}

impl Share {
    fn told(&self, which: &str) -> String {
        let Self {
            all,
            done,
            understood,
        } = self;
        let percent = |of: &u64| of * 100 / (*all).max(1);
        format!(
            "{all} {which} requests, {} % done, {} % more refused for what they ask",
            percent(done),
            percent(understood)
        )
    }
}
