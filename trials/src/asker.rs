//! One client: asks through `kjob-client`, and writes down what it was told.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use kjob_client::{Cancel, Client, Error, Job, JobKey, JobList, List, Payload, Submit};

use crate::call::{Call, Want};
use crate::handlers::{Response, filler};
use crate::history::{
    Accepted, Answer, CancelWord, Event, Key, Micros, Recorder, ResultOf, ResultSeen, Row, Sight,
    Status, What,
};
use crate::lines::now;

/// A client that writes a history.
#[derive(Clone, Debug)]
pub struct Asker {
    client: Client,
    number: u32,
    recorder: Arc<Recorder>,
}

impl Asker {
    /// One that asks until it has an answer: over several lives of a server, if need be. `urls` may be
    /// several, with commas between.
    ///
    /// # Errors
    /// One of the URLs is none.
    pub fn patient(urls: &str, number: u32, recorder: &Arc<Recorder>) -> Result<Self> {
        let builder = Client::builder(urls).timeout(Duration::from_secs(20));
        let client = builder.tries(60).shuffled().build()?;
        Ok(Self::new(client, number, recorder))
    }

    /// One that never asks twice, so that it sees answers lost.
    ///
    /// # Errors
    /// The URL is none.
    pub fn raw(urls: &str, number: u32, recorder: &Arc<Recorder>) -> Result<Self> {
        let builder = Client::builder(urls).timeout(Duration::from_secs(10));
        Ok(Self::new(
            builder.tries(1).shuffled().build()?,
            number,
            recorder,
        ))
    }

    fn new(client: Client, number: u32, recorder: &Arc<Recorder>) -> Self {
        Self {
            client,
            number,
            recorder: recorder.clone(),
        }
    }

    /// Submits.
    ///
    /// # Errors
    /// The history cannot be written; so for all of these.
    pub async fn submit(&self, call: &Call, submit: &Submit) -> Result<Answer<Accepted>> {
        let asked = now();
        let told = self.client.submit(submit).await.map(|job| Accepted {
            id: job.id,
            existing: job.existing,
        });
        let answer = answer(told);
        let call = call.clone();
        self.record(asked, |answer| What::Submit { call, answer }, answer)
    }

    /// Looks at a job, or waits so long for its end.
    ///
    /// # Errors
    /// See [`submit`](Self::submit).
    pub async fn look(&self, key: Key, want: &Want, patience: Duration) -> Result<Answer<Sight>> {
        let asked = now();
        let job_key = match &key {
            Key::Id(id) => JobKey::Id(*id),
            Key::Tag(tag) => JobKey::from(tag.as_str()),
        };
        let told = match patience {
            Duration::ZERO => self.client.get(job_key).await,
            _ => self.client.wait(job_key, patience).await,
        };
        let answer = understood(told, |job| sight(job, want));
        self.record(asked, |answer| What::Get { key, answer }, answer)
    }

    /// Cancels.
    ///
    /// # Errors
    /// See [`submit`](Self::submit).
    pub async fn cancel(&self, id: i64) -> Result<Answer<CancelWord>> {
        let asked = now();
        let told = self.client.cancel(id).await;
        let answer = match told {
            Ok(Cancel::NotFound) => Answer::NotFound,
            told => understood(told, |word| match word {
                Cancel::Cancelled => Some(CancelWord::Cancelled),
                Cancel::Cancelling => Some(CancelWord::Cancelling),
                Cancel::Already(word) => status(&word).map(CancelWord::Already),
                _ => None,
            }),
        };
        self.record(asked, |answer| What::Cancel { id, answer }, answer)
    }

    /// Lists some jobs, ended ones too.
    ///
    /// # Errors
    /// See [`submit`](Self::submit).
    pub async fn list(&self, after: i64, limit: usize) -> Result<Answer<Vec<Row>>> {
        let asked = now();
        let list = List::default().with_ended().after(after).limit(limit);
        let answer = understood(self.client.list(&list).await, rows);
        self.record(asked, |answer| What::List { answer }, answer)
    }

    /// Lists all jobs, page after page.
    ///
    /// # Errors
    /// The server does not answer, or the history cannot be written.
    pub async fn list_all(&self) -> Result<Vec<Row>> {
        let asked = now();
        let mut all = Vec::new();
        let mut after = 0;
        loop {
            let list = List::default().with_ended().after(after).limit(2_000);
            let page = self.client.list(&list).await?;
            let next = page.next;
            all.extend(rows(page).context("a list has a status that is none")?);
            match next {
                Some(last) => after = last,
                None => break,
            }
        }
        self.record(asked, |rows| What::FinalList { rows }, all)
    }

    /// How many jobs have not ended. Not a part of the history.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn unended(&self) -> Result<usize> {
        Ok(self.client.list(&List::default()).await?.jobs.len())
    }

    fn record<T: Clone>(
        &self,
        asked: Micros,
        what: impl FnOnce(T) -> What,
        answer: T,
    ) -> Result<T> {
        let event = Event {
            client: self.number,
            asked,
            answered: now(),
            what: what(answer.clone()),
        };
        self.recorder.record(&event)?;
        Ok(answer)
    }
}

fn answer<T>(told: Result<T, Error>) -> Answer<T> {
    let error = match told {
        Ok(told) => return Answer::Told(told),
        Err(error) => error,
    };
    let message = error.message().unwrap_or_default();
    let is_server_error = error
        .status()
        .is_some_and(|status| status.is_server_error());
    match error.is_refused() && !is_server_error {
        true if message.ends_with("not found") => Answer::NotFound,
        true => Answer::Refused(message.to_owned()),
        false if error.is_odd() => Answer::Refused(error.to_string()),
        false => Answer::Unknown(error.to_string()),
    }
}

/// An answer, or what is no answer of the protocol.
fn understood<T, U>(told: Result<T, Error>, read: impl FnOnce(T) -> Option<U>) -> Answer<U> {
    match answer(told) {
        Answer::Told(told) => match read(told) {
            Some(read) => Answer::Told(read),
            None => Answer::Refused("an answer that has no meaning".to_owned()),
        },
        Answer::NotFound => Answer::NotFound,
        Answer::Refused(why) => Answer::Refused(why),
        Answer::Unknown(why) => Answer::Unknown(why),
    }
}

fn rows(list: JobList) -> Option<Vec<Row>> {
    let row = |job: kjob_client::ListedJob| {
        Some(Row {
            id: job.id,
            tag: job.tag.map(|tag| tag.to_string()),
            status: status(&job.status)?,
        })
    };
    list.jobs.into_iter().map(row).collect()
}

fn status(status: &kjob_client::Status) -> Option<Status> {
    match status {
        kjob_client::Status::Running => Some(Status::Running),
        kjob_client::Status::Done => Some(Status::Done),
        kjob_client::Status::Error => Some(Status::Error),
        kjob_client::Status::Cancelled => Some(Status::Cancelled),
        _ => None,
    }
}

fn sight(job: Job, want: &Want) -> Option<Sight> {
    let info = |name: &str| job.info.get(name).map(ToString::to_string);
    Some(Sight {
        tag: info("job_tag"),
        status: status(&job.status)?,
        progress: job.progress,
        ended_millis: info("time_ended").and_then(|millis| millis.parse().ok()),
        error: job.error_message.as_ref().map(ToString::to_string),
        result: job.result.as_ref().map(|result| result_seen(result, want)),
    })
}

fn result_seen(result: &Payload, want: &Want) -> ResultSeen {
    let crc = crc32fast::hash(&result.data);
    match want {
        Want::Text(text) => ResultSeen {
            crc,
            is_right: result.as_text() == Some(text),
            by: None,
        },
        Want::Handled {
            payload_crc,
            result_len,
        } => match serde_json::from_slice::<Response>(&result.data) {
            Ok(said) => ResultSeen {
                crc,
                is_right: said.payload_crc == *payload_crc
                    && said.filler == filler(&said.token, *result_len),
                by: Some(ResultOf {
                    id: said.id,
                    attempt: said.attempt,
                    token: said.token,
                }),
            },
            Err(_) => ResultSeen {
                crc,
                is_right: false,
                by: None,
            },
        },
    }
}
