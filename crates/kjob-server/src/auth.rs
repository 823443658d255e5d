//! Who calls: accounts, and how it is known that a request is of one of them.

mod credentials;
mod line;
mod owner_key;
mod print;
mod throttle;
mod upstream;

use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kjob_core::engine::Caller;
use quick_cache::sync::Cache;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use credentials::Claim;
pub(crate) use credentials::Credentials;
use line::in_place;
pub use owner_key::{OwnerKey, OwnerKeyError};
use print::{Print, PrintKey};
use throttle::Throttle;
pub use upstream::UpstreamAccounts;
pub(crate) use upstream::{Ask, Barred, UpstreamLogin, Verdict};

use crate::audit::{AuditLog, Event};
use crate::users::{self, FileError, Proof, Role, TokenHash, UserName, Users};

/// How long credentials that were found good are taken for good without another look.
const KNOWN_FOR: Duration = Duration::from_secs(60);

/// How long credentials that were found wrong are taken for wrong without another look. The same wrong
/// password again tells nobody anything new, and a program with an old one must not lock out others.
const WRONG_FOR: Duration = Duration::from_secs(60);

/// How many good credentials are remembered, and how many wrong ones.
const KNOWN_MAX: usize = 16_384;
const WRONG_MAX: usize = 4096;

/// Passwords that are hashed at a time, at most: each takes a core, and the memory that its hash asks
/// for, 19 MiB unless somebody wrote another into the users file.
const HASHED_AT_ONCE_MAX: usize = 4;

/// Passwords that may wait to be hashed.
const WAITING_MAX: usize = 256;

/// The accounts of a server. Clones are of the same accounts.
///
/// Whoever calls shows a password or a token. What was found good is remembered for a minute under a
/// keyed hash, so that polling costs no hash of a password; whether the user still has that password
/// or token is looked at with every request, so that a change of the users is felt at once.
///
/// ```
/// use kjob_server::Accounts;
/// use kjob_server::users::{Role, Users};
///
/// let mut users = Users::default();
/// users.add("ann".parse()?, Role::Admin)?;
/// let accounts = Accounts::new(users.clone());
/// users.add("bob".parse()?, Role::User)?;
/// accounts.replace(users);
/// assert_eq!(accounts.users().len(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Accounts(Arc<Inner>);

struct Inner {
    users: watch::Sender<Arc<Users>>,
    key: PrintKey,
    known: Cache<Print, Known>,
    wrong: Cache<Print, Wrong>,
    throttle: Throttle,
    hashing: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

/// Credentials that were found good.
#[derive(Clone)]
struct Known {
    name: UserName,
    proof: Proof,
    at: Instant,
}

/// Credentials that were found wrong, and by which users.
#[derive(Clone)]
struct Wrong {
    users: Arc<Users>,
    at: Instant,
}

/// A request is of this user.
#[derive(Clone, Debug)]
pub(crate) struct Login {
    pub(crate) caller: Caller,
    name: UserName,
    proof: Proof,
    role: Role,
}

/// Why a request is of nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// It has no credentials.
    Missing,
    /// Its credentials are of no form that there is.
    Malformed,
    /// There is no such user, or the password or the token is not the user's. Which, is not told.
    Wrong,
    /// Too many tries failed before.
    Throttled(Duration),
    /// Too many passwords wait to be hashed.
    Busy,
}

/// A try at a password.
struct Try {
    name: String,
    password: secrecy::zeroize::Zeroizing<Vec<u8>>,
    print: Print,
    ip: IpAddr,
}

impl Accounts {
    /// Accounts of these users.
    pub fn new(users: Users) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self(Arc::new(Inner {
            users: watch::Sender::new(Arc::new(users)),
            key: PrintKey::random(),
            known: Cache::new(KNOWN_MAX),
            wrong: Cache::new(WRONG_MAX),
            throttle: Throttle::new(),
            hashing: Arc::new(Semaphore::new(cores.min(HASHED_AT_ONCE_MAX))),
            waiting: Arc::new(Semaphore::new(WAITING_MAX)),
        }))
    }

    /// Accounts of the users in a file.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn from_file(path: &Path) -> Result<Self, FileError> {
        Ok(Self::new(users::read(path)?))
    }

    /// From now on there are these users, also for connections that are open and for calls that wait.
    pub fn replace(&self, users: Users) {
        self.0.users.send_replace(Arc::new(users));
    }

    /// The users that there are.
    pub fn users(&self) -> Arc<Users> {
        self.0.users.borrow().clone()
    }

    /// Whose credentials these are. `ip` is where they come from.
    ///
    /// A password that is not remembered is hashed on a thread for blocking work, few at a time. What
    /// comes of it is noted also if the future is dropped meanwhile: a try that does not wait for its
    /// answer counts.
    pub(crate) async fn login(
        &self,
        credentials: &Credentials,
        ip: IpAddr,
        audit: Option<&AuditLog>,
    ) -> Result<Login, Denied> {
        let value = match credentials {
            Credentials::None => return Err(Denied::Missing),
            Credentials::Odd => return Err(Denied::Malformed),
            Credentials::Given(value) => value,
        };
        let print = self.0.key.print(b"credentials", value);
        if let Some(answer) = self.0.remembered(&print) {
            return answer;
        }
        match Claim::parse(value).ok_or(Denied::Malformed)? {
            Claim::Token(token) => {
                let (answer, events) = self.0.try_token(&token, print, ip);
                for event in events {
                    AuditLog::note(audit, event).await;
                }
                answer
            }
            Claim::Password { name, password } => {
                let attempt = Try {
                    name,
                    password,
                    print,
                    ip,
                };
                self.try_password(attempt, audit.cloned()).await
            }
        }
    }

    async fn try_password(&self, attempt: Try, audit: Option<AuditLog>) -> Result<Login, Denied> {
        let inner = &self.0;
        inner.check_throttle(&attempt)?;
        let waiting = inner.waiting.clone().try_acquire_owned();
        let waiting = waiting.map_err(|_| Denied::Busy)?;
        let judge = inner.clone();
        let tried = in_place(&inner.hashing, |place| async move {
            drop(waiting);
            // Others may have tried the same meanwhile.
            if let Some(answer) = judge.remembered(&attempt.print) {
                return answer;
            }
            judge.check_throttle(&attempt)?;
            let hashed = tokio::task::spawn_blocking(move || {
                // Kept until the hash is done, whoever waits for it: it bounds memory.
                let _place = place;
                let (answer, events) = judge.hash(&attempt);
                for event in events {
                    AuditLog::note_blocking(audit.as_ref(), event);
                }
                answer
            });
            // It fails if it panicked, or if the runtime ends.
            hashed.await.unwrap_or(Err(Denied::Busy))
        });
        tried.await.unwrap_or(Err(Denied::Busy))
    }

    /// Waits until a login does not hold any more.
    pub(crate) async fn revoked(&self, login: &Login) {
        let mut users = self.0.users.subscribe();
        let is_gone = |users: &Arc<Users>| {
            users.role_by(login.name.as_str(), &login.proof) != Some(login.role)
        };
        if users.wait_for(is_gone).await.is_err() {
            // Nobody can change the users any more.
            std::future::pending().await
        }
    }
}

impl Inner {
    fn users(&self) -> Arc<Users> {
        self.users.borrow().clone()
    }

    /// What is remembered of credentials. Good ones are looked up in the users as they are now.
    fn remembered(&self, print: &Print) -> Option<Result<Login, Denied>> {
        if let Some(known) = self.known.get(print)
            && known.at.elapsed() < KNOWN_FOR
            && let Some(login) = Login::of(known.name, known.proof, &self.users.borrow())
        {
            return Some(Ok(login));
        }
        let wrong = self.wrong.get(print)?;
        let is_so_still =
            wrong.at.elapsed() < WRONG_FOR && Arc::ptr_eq(&wrong.users, &self.users.borrow());
        is_so_still.then_some(Err(Denied::Wrong))
    }

    /// Whether a try has to wait. Credentials that were good when they were last tried need not: they
    /// are no guess, and their owner is not to be locked out by others who fail, be it from the same
    /// address or at the same name.
    fn check_throttle(&self, attempt: &Try) -> Result<(), Denied> {
        if let Some(known) = self.known.peek(&attempt.print)
            && self
                .users
                .borrow()
                .role_by(known.name.as_str(), &known.proof)
                .is_some()
        {
            return Ok(());
        }
        let name = self.name_key(&attempt.name);
        match self.throttle.wait(attempt.ip, Some(&name), Instant::now()) {
            Some(wait) => Err(Denied::Throttled(wait)),
            None => Ok(()),
        }
    }

    fn try_token(
        &self,
        token: &[u8],
        print: Print,
        ip: IpAddr,
    ) -> (Result<Login, Denied>, Vec<Event>) {
        let users = self.users();
        let held = users.holder(&TokenHash::of(token));
        let held = held.map(|(name, proof)| (name.clone(), proof));
        // The right token is never held back: nobody guesses 256 bits, and others at the same address,
        // behind a proxy say, must not lock out its owner. To look it up costs less than to refuse it.
        if held.is_none()
            && let Some(wait) = self.throttle.wait(ip, None, Instant::now())
        {
            return (Err(Denied::Throttled(wait)), Vec::new());
        }
        self.judge(held, users, None, print, ip)
    }

    /// Hashes a password, whether or not there is such a user.
    fn hash(&self, attempt: &Try) -> (Result<Login, Denied>, Vec<Event>) {
        let users = self.users();
        let user = users.user(&attempt.name);
        let hash = user.and_then(|(_, user)| user.password());
        let is_good = hash
            .unwrap_or_else(|| users::dummy())
            .is_of(&attempt.password);
        let held = match (user, hash) {
            (Some((name, _)), Some(hash)) if is_good => {
                Some((name.clone(), Proof::Password(hash.clone())))
            }
            _ => None,
        };
        self.judge(held, users, Some(&attempt.name), attempt.print, attempt.ip)
    }

    /// Notes what a look at the users showed: whose the credentials are, if anybody's. `claimed` is the
    /// name that came with a password.
    fn judge(
        &self,
        held: Option<(UserName, Proof)>,
        users: Arc<Users>,
        claimed: Option<&str>,
        print: Print,
        ip: IpAddr,
    ) -> (Result<Login, Denied>, Vec<Event>) {
        let at = Instant::now();
        if let Some((name, proof)) = held
            && let Some(login) = Login::of(name.clone(), proof.clone(), &users)
        {
            let event = Event::login(&login.caller, &proof, ip);
            self.wrong.remove(&print);
            self.known.insert(print, Known { name, proof, at });
            return (Ok(login), vec![event]);
        }
        let name = claimed.map(|name| self.name_key(name));
        self.known.remove(&print);
        self.wrong.insert(print, Wrong { users, at });
        let mut events = vec![Event::login_failed(claimed, ip)];
        if let Some(wait) = self.throttle.fail(ip, name.as_ref(), at) {
            events.push(Event::throttled(claimed, ip, wait));
        }
        (Err(Denied::Wrong), events)
    }

    fn name_key(&self, name: &str) -> Print {
        self.key.print(b"name", name.as_bytes())
    }
}

impl Login {
    /// The login of a user by a proof, if it is one still.
    fn of(name: UserName, proof: Proof, users: &Users) -> Option<Self> {
        let role = users.role_by(name.as_str(), &proof)?;
        let caller = match role {
            Role::Admin => Caller::admin(name.owner()),
            Role::User => Caller::user(name.owner()),
        };
        Some(Self {
            caller,
            name,
            proof,
            role,
        })
    }
}

impl fmt::Debug for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accounts")
            .field("users", &self.users().len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
