//! The client, and one call of it.

use std::time::Duration;

use kjob_proto::Record;

use crate::answer::Failed;
use crate::retry::wait_after;
use crate::transport::Transport;
use crate::{ClientBuilder, Error};

/// A caller of one server. Clones share its connections, which are kept alive between calls.
///
/// Every method may be called any number of times at once. Needs a tokio runtime with I/O and time.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) transport: Transport,
    pub(crate) timeout: Duration,
    pub(crate) tries: u32,
}

impl Client {
    /// A client of the server at `url`, such as `http://127.0.0.1:9191`, with default settings.
    ///
    /// # Errors
    /// The URL is none, or of another scheme than `http` and (with the feature `tls`) `https`.
    pub fn new(url: &str) -> Result<Self, Error> {
        Self::builder(url).build()
    }

    /// Settings for a client of the server at `url`.
    pub fn builder(url: &str) -> ClientBuilder {
        ClientBuilder::new(url)
    }

    pub(crate) async fn call<Request: Record, Response: Record>(
        &self,
        endpoint: &str,
        request: &Request,
    ) -> Result<Response, Error> {
        self.call_within(endpoint, request, Duration::ZERO).await
    }

    /// Calls until there is an answer that stands. Every call of this client may be made again:
    /// submits carry a tag, and all others say what is to be, not what is to change.
    ///
    /// `wait` is the time that the server may take on purpose.
    pub(crate) async fn call_within<Request: Record, Response: Record>(
        &self,
        endpoint: &str,
        request: &Request,
        wait: Duration,
    ) -> Result<Response, Error> {
        let body = self.transport.encode(request);
        let timeout = self.timeout.saturating_add(wait);
        let mut tries = 0;
        loop {
            let answer = self.transport.post(endpoint, body.clone(), timeout).await;
            tries += 1;
            let Failed { error, retry_after } = match answer {
                Ok(response) => return Ok(response),
                Err(failed) => failed,
            };
            if tries >= self.tries || !error.is_passing() {
                return Err(error);
            }
            tokio::time::sleep(wait_after(tries, retry_after)).await;
        }
    }
}
