//! Progress that upstreams report while they work on a job: in interim answers to the job's request, or
//! by posting to a URL that the request names.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64ct::{Base64UrlUnpadded, Encoding as _};
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use kjob_core::JobId;
use kjob_core::engine::{JobContext, JobInfo};
use ring::hmac;
use serde::Deserialize;
use tokio::sync::Notify;

use super::route::HttpRoute;

/// Where an upstream is told that it may report.
const PROGRESS_URL: HeaderName = HeaderName::from_static("progress-url");

/// The longest report, in bytes: it is a number.
pub(crate) const REPORT_LEN_MAX: usize = 1 << 10;

/// Runs of jobs whose upstreams may report, and the proof that it is they who do. Clones are the same.
#[derive(Clone)]
pub(crate) struct Reports(Arc<Shared>);

struct Shared {
    /// Made anew with each process: no run outlives its process, so no token has to.
    key: hmac::Key,
    runs: Mutex<HashMap<JobId, Arc<Run>>>,
}

/// A run of a job, as its upstream may report on it.
struct Run {
    context: JobContext,
    /// Something came, so the upstream is not silent.
    heard: Notify,
}

/// A run that takes reports until this is dropped.
pub(super) struct Reporting {
    reports: Reports,
    run: Arc<Run>,
    /// The header in which interim answers have the progress.
    header: Option<HeaderName>,
    url: Option<HeaderValue>,
}

impl Default for Reports {
    fn default() -> Self {
        let key: [u8; 32] = rand::random();
        Self(Arc::new(Shared {
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
            runs: Mutex::default(),
        }))
    }
}

/// Without the key.
impl fmt::Debug for Reports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reports").finish_non_exhaustive()
    }
}

impl Reports {
    /// Lets the upstream of a run report, in the ways that its route has.
    pub(super) fn open(&self, route: &HttpRoute, context: &JobContext) -> Reporting {
        let run = Arc::new(Run {
            context: context.clone(),
            heard: Notify::new(),
        });
        let job = context.job();
        let url = route.progress_url.as_ref().and_then(|base| {
            let (base, token) = (base.trim_end_matches('/'), self.token(job));
            let url = format!("{base}/jobs/{}/progress?token={token}", job.id);
            let mut url = HeaderValue::try_from(url).ok()?;
            url.set_sensitive(true);
            Some(url)
        });
        if url.is_some() {
            self.runs().insert(job.id, run.clone());
        }
        Reporting {
            reports: self.clone(),
            run,
            header: route.progress_header.clone(),
            url,
        }
    }

    /// Takes a report by whoever has the token of a run. Whether there is such a run, and whether the
    /// token is its: the answer to both is one.
    pub(crate) fn take(&self, id: JobId, token: &str, percent: u8) -> bool {
        let run = self.runs().get(&id).cloned();
        let Some(run) = run else {
            return false;
        };
        let Ok(signature) = Base64UrlUnpadded::decode_vec(token) else {
            return false;
        };
        let signed = signed(run.context.job());
        let is_its = hmac::verify(&self.0.key, signed.as_bytes(), &signature).is_ok();
        if is_its {
            run.report(percent);
        }
        is_its
    }

    fn token(&self, job: &JobInfo) -> String {
        let signature = hmac::sign(&self.0.key, signed(job).as_bytes());
        Base64UrlUnpadded::encode_string(signature.as_ref())
    }

    fn runs(&self) -> MutexGuard<'_, HashMap<JobId, Arc<Run>>> {
        self.0.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a token is for: one attempt of one job.
fn signed(job: &JobInfo) -> String {
    format!("progress.{}.{}.{}", job.id, job.query_id, job.attempt)
}

impl Run {
    fn report(&self, percent: u8) {
        self.context.progress(percent);
        self.heard.notify_one();
    }
}

impl Reporting {
    /// Adds to a request what lets its upstream report.
    pub(super) fn add_to<B>(&self, request: &mut Request<B>) {
        if let Some(url) = &self.url {
            request.headers_mut().insert(PROGRESS_URL, url.clone());
        }
        let (run, name) = (self.run.clone(), self.header.clone());
        hyper::ext::on_informational(request, move |answer| {
            let told = name
                .as_ref()
                .and_then(|name| of_header(name, answer.headers()));
            match told {
                Some(percent) => run.report(percent),
                None => run.heard.notify_one(),
            }
        });
    }

    /// Told when something comes from the upstream.
    pub(super) fn heard(&self) -> &Notify {
        &self.run.heard
    }
}

impl Drop for Reporting {
    fn drop(&mut self) {
        if self.url.is_none() {
            return;
        }
        let id = self.run.context.job().id;
        let mut runs = self.reports.runs();
        // A later attempt may have taken the place.
        if runs.get(&id).is_some_and(|run| Arc::ptr_eq(run, &self.run)) {
            runs.remove(&id);
        }
    }
}

fn of_header(name: &HeaderName, headers: &HeaderMap) -> Option<u8> {
    let text = headers.get(name)?.to_str().ok()?;
    percent(text.trim().trim_end_matches('%').parse().ok()?)
}

/// The progress in the body of a report: a JSON number from 0 to 100, or an object with a member
/// `progress` that is one.
pub(crate) fn of_body(body: &[u8]) -> Option<u8> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Report {
        Bare(f64),
        Member { progress: f64 },
    }
    match serde_json::from_slice(body).ok()? {
        Report::Bare(number) | Report::Member { progress: number } => percent(number),
    }
}

/// The whole percents of a number from 0 to 100.
fn percent(number: f64) -> Option<u8> {
    // Cut, and so never more than is done.
    (0.0..=100.0).contains(&number).then_some(number as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_a_number_of_percents() {
        for (body, percent) in [
            ("40", Some(40)),
            (" 99.9\n", Some(99)),
            ("0", Some(0)),
            ("100", Some(100)),
            ("{\"progress\": 7}", Some(7)),
            ("{\"stage\": \"x\", \"progress\": 7.5}", Some(7)),
            ("100.1", None),
            ("-1", None),
            ("1e999", None),
            ("", None),
            ("\"40\"", None),
            ("[40]", None),
            ("{\"progres\": 7}", None),
            ("{\"progress\": null}", None),
            ("40 41", None),
        ] {
            assert_eq!(of_body(body.as_bytes()), percent, "{body}");
        }
        assert_eq!(of_body(b"\xff"), None);
    }

    #[test]
    fn an_interim_answer_has_it_in_its_header() {
        let name = HeaderName::from_static("x-progress");
        for (value, percent) in [
            ("40", Some(40)),
            ("40%", Some(40)),
            (" 7.9 ", Some(7)),
            ("101", None),
            ("NaN", None),
            ("inf", None),
            ("", None),
            ("soon", None),
        ] {
            let headers = HeaderMap::from_iter([(name.clone(), HeaderValue::from_static(value))]);
            assert_eq!(of_header(&name, &headers), percent, "{value}");
        }
        assert_eq!(of_header(&name, &HeaderMap::new()), None);
    }
}
