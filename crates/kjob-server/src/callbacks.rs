//! Telling URLs that jobs have ended: which may be told, what they are told, and how it is tried.

mod connect;
mod deliver;
mod hosts;
mod message;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kjob_core::engine::Submission;
use ring::hmac;
use secrecy::{ExposeSecret, SecretString};

pub(crate) use deliver::deliver;
pub(crate) use hosts::CallbackUrlError;
pub use hosts::{BadCallbackHost, CallbackHosts};

/// What stands before a secret in its text form (Standard Webhooks, "signature scheme").
const SECRET_PREFIX: &str = "whsec_";

/// Fewer bytes than this are no secret, more than that are no use (Standard Webhooks).
const SECRET_LENS: std::ops::RangeInclusive<usize> = 24..=64;

/// How a server makes callbacks, and to whom. Clones share the secret.
///
/// ```
/// use kjob_server::{CallbackHosts, Callbacks};
///
/// let hosts: CallbackHosts = "hooks.example.com, 127.0.0.1:9000".parse()?;
/// let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned().into();
/// let callbacks = Callbacks::new(hosts, &secret)?;
/// // Nothing that is secret shows.
/// assert!(!format!("{callbacks:?}").contains("MfKQ"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Callbacks {
    hosts: Arc<CallbackHosts>,
    key: Arc<hmac::Key>,
    patience: Patience,
}

/// How long a callback is tried, and how often.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// From the end of the job; then it is given up.
    retry_for: Duration,
    /// The wait after the first try; then it doubles.
    backoff: Duration,
    /// The longest wait.
    backoff_max: Duration,
    /// For one try, from the lookup of the name to the head of the answer.
    timeout: Duration,
}

/// A secret is not of the form that it has to be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// The file cannot be read.
    #[error("callback_secret_file {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It is not whsec_ and base64.
    #[error("the secret of callbacks is to be \"whsec_\" and, in base64, 24 to 64 random bytes")]
    Form,
}

impl Callbacks {
    /// Callbacks to these hosts, signed with this secret: `whsec_` and 24 to 64 bytes in base64.
    ///
    /// # Errors
    /// [`SecretError::Form`].
    pub fn new(hosts: CallbackHosts, secret: &SecretString) -> Result<Self, SecretError> {
        use base64ct::{Base64, Encoding};
        let text = secret.expose_secret().trim();
        let text = text.strip_prefix(SECRET_PREFIX).ok_or(SecretError::Form)?;
        let bytes = Base64::decode_vec(text).map_err(|_| SecretError::Form)?;
        let bytes = secrecy::SecretSlice::from(bytes);
        if !SECRET_LENS.contains(&bytes.expose_secret().len()) {
            return Err(SecretError::Form);
        }
        Ok(Self {
            hosts: Arc::new(hosts),
            key: Arc::new(hmac::Key::new(hmac::HMAC_SHA256, bytes.expose_secret())),
            patience: Patience {
                retry_for: Duration::from_secs(24 * 60 * 60),
                backoff: Duration::from_secs(5),
                backoff_max: Duration::from_secs(60 * 60),
                timeout: Duration::from_secs(15),
            },
        })
    }

    /// Likewise, with the secret from a file.
    ///
    /// # Errors
    /// [`SecretError`].
    pub fn from_file(hosts: CallbackHosts, path: &Path) -> Result<Self, SecretError> {
        let text = std::fs::read_to_string(path).map_err(|source| SecretError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::new(hosts, &text.into())
    }

    /// Gives a callback up so long after the end of its job. A day, unless told.
    #[must_use]
    pub fn retry_for(mut self, retry_for: Duration) -> Self {
        self.patience.retry_for = retry_for;
        self
    }

    /// Waits so long after the first try that failed, then twice as long after each, up to an hour,
    /// and less by a random part of up to half. 5 s, unless told.
    #[must_use]
    pub fn backoff(mut self, first: Duration) -> Self {
        self.patience.backoff = first;
        self
    }

    /// Gives up a try after so long. 15 s, unless told.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.patience.timeout = timeout;
        self
    }
}

/// Refuses a submit whose callback may not be made.
pub(crate) fn check(
    callbacks: Option<&Callbacks>,
    submission: &Submission,
) -> Result<(), CallbackUrlError> {
    let Some(url) = &submission.callback_url else {
        return Ok(());
    };
    let callbacks = callbacks.ok_or(CallbackUrlError::NoneAllowed)?;
    callbacks.hosts.check(url).map(drop)
}

impl fmt::Debug for Callbacks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Callbacks")
            .field("hosts", &self.hosts)
            .field("patience", &self.patience)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_has_its_form() {
        use base64ct::{Base64, Encoding};
        let made = |len: usize| {
            let text = format!("whsec_{}\n", Base64::encode_string(&vec![7; len]));
            Callbacks::new(CallbackHosts::default(), &text.into()).is_ok()
        };
        assert_eq!([23, 24, 64, 65].map(made), [false, true, true, false]);
        for bad in ["", "whsec_", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_%"] {
            let secret = bad.to_owned().into();
            assert!(Callbacks::new(CallbackHosts::default(), &secret).is_err());
        }
    }
}
