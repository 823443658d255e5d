//! Accounts of an upstream: it is shown the caller's credentials, and says whether they are good.

mod verdicts;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::StatusCode;
use kjob_core::engine::Caller;
use kjob_proto::Text;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::credentials::{Claim, Credentials};
use super::line::in_place;
use super::owner_key::OwnerKey;
use super::print::{Print, PrintKey};
use super::throttle::Throttle;
use super::{Denied, WAITING_MAX};
use crate::audit::{AuditLog, Event};
use crate::gateway::{GatewayError, Upstream};
use crate::passthrough::Asker;
use crate::refusal::Refusal;
use verdicts::Verdicts;

/// How long what an upstream said counts, unless it is told.
const HOLD_FOR: Duration = Duration::from_secs(60);

/// How often the upstream is asked about a caller who waits, at the most.
const WAITING_ASKED_EVERY: Duration = Duration::from_secs(5);

/// Questions that are under way at a time, at most: of callers who were let in before, and of others, so
/// that a crowd of strangers keeps nobody out who is known.
const KNOWN_ASKED_AT_ONCE_MAX: usize = 32;
const STRANGERS_ASKED_AT_ONCE_MAX: usize = 32;

/// Lets in whom the server behind this one lets in: each caller's `Authorization` is shown to it. So who has
/// no account there reaches no job here. What it said is remembered for a minute under a keyed hash. Clones
/// are the same.
///
/// Callers are users, and see the jobs of their own name only; all who show nothing, if the upstream takes
/// that, are one user.
#[derive(Clone)]
pub struct UpstreamAccounts {
    inner: Arc<Inner>,
    hold_for: Duration,
}

struct Inner {
    asked: Box<dyn Ask>,
    owners: OwnerKey,
    key: PrintKey,
    verdicts: Verdicts,
    throttle: Throttle,
    known: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

/// Whoever can say whose credentials are good.
#[async_trait]
pub(crate) trait Ask: Send + Sync {
    /// What it says of these, which come from `ip`; or why it says nothing.
    async fn ask(&self, credentials: &Credentials, ip: IpAddr) -> Result<Verdict, String>;
}

/// What an upstream says of credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Good,
    Barred(Barred),
}

/// Why an upstream does not let a caller in, in its own words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Barred {
    /// 401, 403 or 429.
    pub(crate) status: StatusCode,
    pub(crate) message: Text,
    pub(crate) retry_after: Option<Duration>,
}

/// A request is of a caller whom the upstream lets in.
#[derive(Clone, Debug)]
pub(crate) struct UpstreamLogin {
    pub(crate) caller: Caller,
    /// Kept as long as the request, as those are that go to the upstream with its job.
    credentials: Arc<Credentials>,
    print: Print,
    ip: IpAddr,
}

/// A question to be asked.
#[derive(Clone)]
struct Question {
    credentials: Arc<Credentials>,
    print: Print,
    /// The name that comes with a password.
    claimed: Option<String>,
    ip: IpAddr,
    was_good: bool,
}

impl UpstreamAccounts {
    /// Those of `upstream`, which has no path. It is connected to when the first caller comes.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn new(upstream: Upstream, owners: OwnerKey) -> Result<Self, GatewayError> {
        Ok(Self::of(Box::new(Asker::new(upstream)?), owners))
    }

    fn of(asked: Box<dyn Ask>, owners: OwnerKey) -> Self {
        let inner = Inner {
            asked,
            owners,
            key: PrintKey::random(),
            verdicts: Verdicts::new(),
            throttle: Throttle::new(),
            known: Arc::new(Semaphore::new(KNOWN_ASKED_AT_ONCE_MAX)),
            strangers: Arc::new(Semaphore::new(STRANGERS_ASKED_AT_ONCE_MAX)),
            waiting: Arc::new(Semaphore::new(WAITING_MAX)),
        };
        Self {
            inner: Arc::new(inner),
            hold_for: HOLD_FOR,
        }
    }

    /// How long what the upstream said counts. Default a minute; with zero it is asked at every request.
    #[must_use]
    pub fn hold_for(mut self, hold_for: Duration) -> Self {
        self.hold_for = hold_for;
        self
    }

    /// Who calls with these credentials, if the upstream takes them. What comes of asking is noted also if
    /// the future is dropped meanwhile: a try that does not wait for its answer counts.
    pub(crate) async fn login(
        &self,
        credentials: &Arc<Credentials>,
        ip: IpAddr,
        audit: Option<&AuditLog>,
    ) -> Result<UpstreamLogin, Refusal> {
        let print = match &**credentials {
            Credentials::None => self.inner.key.print(b"none", b""),
            Credentials::Given(value) => self.inner.key.print(b"credentials", value),
            Credentials::Odd => return Err(Refusal::Login(Denied::Malformed)),
        };
        let remembered = self.inner.verdicts.remembered(&print, self.hold_for);
        let verdict = match remembered {
            Some(verdict) => verdict,
            None => self.ask(credentials, print, ip, audit).await?,
        };
        match verdict {
            Verdict::Good => Ok(UpstreamLogin {
                caller: Caller::user(self.inner.owners.owner(credentials)),
                credentials: credentials.clone(),
                print,
                ip,
            }),
            Verdict::Barred(barred) => {
                if matches!(**credentials, Credentials::None) {
                    AuditLog::note(audit, Event::refused("no credentials", ip)).await;
                }
                Err(Refusal::Barred(barred))
            }
        }
    }

    async fn ask(
        &self,
        credentials: &Arc<Credentials>,
        print: Print,
        ip: IpAddr,
        audit: Option<&AuditLog>,
    ) -> Result<Verdict, Refusal> {
        let inner = self.inner.clone();
        let question = Question {
            credentials: credentials.clone(),
            print,
            claimed: claimed(credentials),
            ip,
            was_good: inner.verdicts.good_since(&print).is_some(),
        };
        let busy = || Refusal::Login(Denied::Busy);
        let (places, waiting) = if question.was_good {
            (&self.inner.known, None)
        } else {
            inner.check_throttle(&question)?;
            let waiting = inner.waiting.clone().try_acquire_owned();
            (&self.inner.strangers, Some(waiting.map_err(|_| busy())?))
        };
        let (audit, hold_for) = (audit.cloned(), self.hold_for);
        let asked = in_place(places, move |place| async move {
            // Kept until there is an answer, whoever waits for it.
            let _place = place;
            drop(waiting);
            // Others may have asked the same meanwhile.
            if let Some(verdict) = inner.verdicts.remembered(&print, hold_for) {
                return Ok(verdict);
            }
            inner.check_throttle(&question)?;
            let told = inner.asked.ask(&question.credentials, question.ip).await;
            let verdict = told.map_err(Refusal::Upstream)?;
            for event in inner.note(&question, &verdict) {
                AuditLog::note(audit.as_ref(), event).await;
            }
            Ok(verdict)
        });
        asked.await.unwrap_or_else(|| Err(busy()))
    }

    /// Waits until the upstream lets the caller in no more. While it gives no answer, it has said nothing
    /// against them.
    pub(crate) async fn revoked(&self, login: &UpstreamLogin, audit: Option<&AuditLog>) {
        loop {
            let now = Instant::now();
            let good_since = self.inner.verdicts.good_since(&login.print);
            let good_until = good_since.map_or(now, |since| since + self.hold_for);
            tokio::time::sleep_until(good_until.max(now + WAITING_ASKED_EVERY)).await;
            match self.login(&login.credentials, login.ip, audit).await {
                Err(Refusal::Barred(barred)) if barred.is_final() => return,
                _ => {}
            }
        }
    }
}

impl Inner {
    /// Whether a try has to wait. Credentials that were good when they were last tried need not: they
    /// are no guess.
    fn check_throttle(&self, question: &Question) -> Result<(), Refusal> {
        if question.was_good || matches!(*question.credentials, Credentials::None) {
            return Ok(());
        }
        let name = self.name_key(question);
        match self
            .throttle
            .wait(question.ip, name.as_ref(), Instant::now())
        {
            Some(wait) => Err(Refusal::Login(Denied::Throttled(wait))),
            None => Ok(()),
        }
    }

    /// Notes what the upstream said. Gives what is to be written of it.
    fn note(&self, question: &Question, verdict: &Verdict) -> Vec<Event> {
        let (ip, now) = (question.ip, Instant::now());
        let is_given = !matches!(*question.credentials, Credentials::None);
        let barred = match verdict {
            Verdict::Good => {
                let is_news = self.verdicts.note_good(question.print, now);
                let owner = self.owners.owner(&question.credentials);
                let is_told = is_news && is_given;
                return is_told
                    .then(|| Event::upstream_login(&owner, ip))
                    .into_iter()
                    .collect();
            }
            Verdict::Barred(barred) => barred,
        };
        // That others have to wait says nothing of these credentials.
        if !barred.is_final() {
            return Vec::new();
        }
        self.verdicts
            .note_barred(question.print, barred.clone(), now);
        if !is_given {
            return Vec::new();
        }
        let claimed = question.claimed.as_deref();
        let mut events = vec![Event::login_failed(claimed, ip)];
        // Only what may be a guess: whoever is known and still may not come in is not guessing.
        if barred.status == StatusCode::UNAUTHORIZED
            && let Some(wait) = self
                .throttle
                .fail(ip, self.name_key(question).as_ref(), now)
        {
            events.push(Event::throttled(claimed, ip, wait));
        }
        events
    }

    fn name_key(&self, question: &Question) -> Option<Print> {
        let claimed = question.claimed.as_ref()?;
        Some(self.key.print(b"name", claimed.as_bytes()))
    }
}

impl Barred {
    /// Whether it is about the caller, and not about how many come at once.
    fn is_final(&self) -> bool {
        self.status != StatusCode::TOO_MANY_REQUESTS
    }
}

fn claimed(credentials: &Credentials) -> Option<String> {
    let Credentials::Given(value) = credentials else {
        return None;
    };
    match Claim::parse(value)? {
        Claim::Password { name, .. } => Some(name),
        Claim::Token(_) => None,
    }
}

impl fmt::Debug for UpstreamAccounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamAccounts")
            .field("hold_for", &self.hold_for)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
