//! Who is let in, and what is written of it.

use std::net::IpAddr;
use std::sync::Arc;

use kjob_core::Owner;
use kjob_core::engine::Caller;

use crate::audit::{AuditLog, Event};
use crate::auth::{Accounts, Credentials, Denied, Login, UpstreamAccounts, UpstreamLogin};
use crate::refusal::Refusal;
use crate::web::{Visit, WebRules};

/// Who may use a server. The default is everybody, as one user who sees everything, and no records of
/// it: right for a server that only its owner reaches.
///
/// ```
/// use kjob_server::users::Users;
/// use kjob_server::{Access, Accounts, WebRules};
///
/// let access = Access::default()
///     .accounts(Accounts::new(Users::default()))
///     .web(WebRules::default().origin("https://app.example.org"));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Access {
    pub(crate) accounts: Option<Accounts>,
    pub(crate) upstream: Option<UpstreamAccounts>,
    pub(crate) audit: Option<AuditLog>,
    pub(crate) web: WebRules,
}

/// Who a request is of.
#[derive(Clone, Debug)]
pub(crate) struct Admitted {
    pub(crate) caller: Caller,
    login: Admission,
}

/// Why.
#[derive(Clone, Debug)]
enum Admission {
    /// Everybody is.
    Open,
    Account(Accounts, Login),
    /// The upstream lets them in.
    Upstream(UpstreamAccounts, UpstreamLogin, Option<AuditLog>),
}

impl Admitted {
    /// Waits until whoever was admitted would not be any more.
    pub(crate) async fn revoked(&self) {
        match &self.login {
            Admission::Account(accounts, login) => accounts.revoked(login).await,
            Admission::Upstream(accounts, login, audit) => {
                // In a box of its own: what waits with an account is to be small.
                Box::pin(accounts.revoked(login, audit.as_ref())).await;
            }
            Admission::Open => std::future::pending().await,
        }
    }
}

impl Access {
    /// Lets in only who has an account. Without accounts, whatever `Authorization` says is ignored:
    /// clients send odd ones (docs/protocol.md section 2: `Bearer undefined`).
    #[must_use]
    pub fn accounts(mut self, accounts: Accounts) -> Self {
        self.accounts = Some(accounts);
        self
    }

    /// Lets only those at jobs whom an upstream lets in; what else there is stays open. Accounts of one's
    /// own win: then the upstream is not asked.
    #[must_use]
    pub fn upstream_accounts(mut self, accounts: UpstreamAccounts) -> Self {
        self.upstream = Some(accounts);
        self
    }

    /// Writes who did what.
    #[must_use]
    pub fn audit(mut self, audit: AuditLog) -> Self {
        self.audit = Some(audit);
        self
    }

    /// Says what web pages may do.
    #[must_use]
    pub fn web(mut self, web: WebRules) -> Self {
        self.web = web;
        self
    }

    /// Whether there are accounts of its own.
    pub(crate) fn has_accounts(&self) -> bool {
        self.accounts.is_some()
    }

    /// Whether there are callers who may not do everything.
    pub(crate) fn has_strangers(&self) -> bool {
        self.accounts.is_some() || self.upstream.is_some()
    }

    /// Whose accounts count, in a word.
    pub(crate) fn accounts_word(&self) -> &'static str {
        match (&self.accounts, &self.upstream) {
            (Some(_), _) => "own",
            (None, Some(_)) => "upstream",
            (None, None) => "none",
        }
    }

    /// Whether a request is looked at, and whose it is. `is_of_jobs` says whether it may come to jobs.
    pub(crate) async fn admit(
        &self,
        visit: &Visit,
        credentials: Credentials,
        ip: IpAddr,
        is_of_jobs: bool,
    ) -> Result<Admitted, Refusal> {
        if let Err(refusal) = visit.check() {
            return Err(self.refused(refusal, ip).await);
        }
        let admitted = match (&self.accounts, &self.upstream) {
            (Some(accounts), _) => self.admit_user(accounts, &credentials, ip).await,
            (None, Some(upstream)) if is_of_jobs => {
                self.admit_as_upstream(upstream, credentials, ip).await
            }
            _ => Ok(Admitted {
                caller: Caller::admin(Owner::anonymous()),
                login: Admission::Open,
            }),
        };
        match admitted {
            Ok(admitted) => Ok(admitted),
            Err(refusal) => Err(self.refused(refusal, ip).await),
        }
    }

    async fn admit_user(
        &self,
        accounts: &Accounts,
        credentials: &Credentials,
        ip: IpAddr,
    ) -> Result<Admitted, Refusal> {
        let login = accounts.login(credentials, ip, self.audit.as_ref()).await;
        let login = login.map_err(Refusal::Login)?;
        Ok(Admitted {
            caller: login.caller.clone(),
            login: Admission::Account(accounts.clone(), login),
        })
    }

    async fn admit_as_upstream(
        &self,
        upstream: &UpstreamAccounts,
        credentials: Credentials,
        ip: IpAddr,
    ) -> Result<Admitted, Refusal> {
        let audit = self.audit.as_ref();
        let login = upstream.login(&Arc::new(credentials), ip, audit).await?;
        Ok(Admitted {
            caller: login.caller.clone(),
            login: Admission::Upstream(upstream.clone(), login, self.audit.clone()),
        })
    }

    /// Writes that a client had to show a certificate and showed none that is taken.
    pub(crate) async fn refused_certificate(&self, ip: IpAddr) {
        let event = Event::refused("client certificate", ip);
        AuditLog::note(self.audit.as_ref(), event).await;
    }

    /// Writes that somebody is refused, if that is why. Gives the refusal back.
    pub(crate) async fn refused(&self, refusal: Refusal, ip: IpAddr) -> Refusal {
        let why = match &refusal {
            Refusal::Host { .. } => Some("host"),
            Refusal::Origin { .. } => Some("origin"),
            Refusal::Login(Denied::Missing) => Some("no credentials"),
            Refusal::Login(Denied::Malformed) => Some("malformed credentials"),
            Refusal::Login(Denied::Throttled(_)) => Some("held back"),
            Refusal::MetricsNotShown | Refusal::HistoryNotShown => Some("forbidden"),
            Refusal::NoRun(_) => Some("progress token"),
            // Logins were told of when they were tried; the others are no question of who may.
            _ => None,
        };
        if let Some(why) = why {
            AuditLog::note(self.audit.as_ref(), Event::refused(why, ip)).await;
        }
        refusal
    }
}
