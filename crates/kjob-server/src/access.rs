//! Who is let in, and what is written of it.

use std::net::IpAddr;

use kjob_core::Owner;
use kjob_core::engine::Caller;

use crate::audit::{AuditLog, Event};
use crate::auth::{Accounts, Credentials, Denied, Login};
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
    pub(crate) audit: Option<AuditLog>,
    pub(crate) web: WebRules,
}

/// Who a request is of.
#[derive(Clone, Debug)]
pub(crate) struct Admitted {
    pub(crate) caller: Caller,
    login: Option<(Accounts, Login)>,
}

impl Admitted {
    /// Waits until whoever was admitted would not be any more.
    pub(crate) async fn revoked(&self) {
        match &self.login {
            Some((accounts, login)) => accounts.revoked(login).await,
            None => std::future::pending().await,
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

    /// Whether a request is looked at, and whose it is.
    pub(crate) async fn admit(
        &self,
        visit: &Visit,
        credentials: &Credentials,
        ip: IpAddr,
    ) -> Result<Admitted, Refusal> {
        if let Err(refusal) = self.web.check(visit) {
            return Err(self.refused(refusal, ip).await);
        }
        let Some(accounts) = &self.accounts else {
            return Ok(Admitted {
                caller: Caller::admin(Owner::anonymous()),
                login: None,
            });
        };
        match accounts.login(credentials, ip, self.audit.as_ref()).await {
            Ok(login) => Ok(Admitted {
                caller: login.caller.clone(),
                login: Some((accounts.clone(), login)),
            }),
            Err(denied) => Err(self.refused(Refusal::Login(denied), ip).await),
        }
    }

    async fn refused(&self, refusal: Refusal, ip: IpAddr) -> Refusal {
        let why = match &refusal {
            Refusal::Host { .. } => Some("host"),
            Refusal::Origin { .. } => Some("origin"),
            Refusal::Login(Denied::Missing) => Some("no credentials"),
            Refusal::Login(Denied::Malformed) => Some("malformed credentials"),
            Refusal::Login(Denied::Throttled(_)) => Some("held back"),
            // These were told of when they were tried.
            _ => None,
        };
        if let Some(why) = why {
            AuditLog::note(self.audit.as_ref(), Event::refused(why, ip)).await;
        }
        refusal
    }
}
