//! The client, and one call of it.

use std::time::Duration;

use kjob_proto::Record;

use crate::answer::Failed;
use crate::ring::{Ring, Walk};
use crate::transport::Transport;
use crate::{ClientBuilder, Error, Urls};

/// A caller of one server, or of a ring of servers. Clones share its connections, which are kept
/// alive between calls, and which server calls begin with.
///
/// Every method may be called any number of times at once. Needs a tokio runtime with I/O and time.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) transport: Transport,
    pub(crate) ring: Ring,
    pub(crate) timeout: Duration,
    pub(crate) tries: u32,
}

impl Client {
    /// A client of the server at a URL such as `http://127.0.0.1:9191`, or of those at several, with
    /// default settings.
    ///
    /// # Errors
    /// There is no URL, or one is none, or of another scheme than `http` and (with the feature `tls`)
    /// `https`.
    pub fn new(urls: impl Into<Urls>) -> Result<Self, Error> {
        Self::builder(urls).build()
    }

    /// Settings for a client of the server at a URL, or of those at several.
    pub fn builder(urls: impl Into<Urls>) -> ClientBuilder {
        ClientBuilder::new(urls.into())
    }

    pub(crate) async fn ask<Request: Record, Response: Record>(
        &self,
        endpoint: &str,
        request: &Request,
    ) -> Result<Response, Error> {
        self.ask_within(endpoint, request, Duration::ZERO).await
    }

    /// Calls until there is an answer that stands. Every call of this client may be made again:
    /// submits carry a tag, and all others say what is to be, not what is to change.
    ///
    /// `wait` is the time that the server may take on purpose.
    pub(crate) async fn ask_within<Request: Record, Response: Record>(
        &self,
        endpoint: &str,
        request: &Request,
        wait: Duration,
    ) -> Result<Response, Error> {
        let body = self.transport.encode(request);
        let timeout = self.timeout.saturating_add(wait);
        let mut walk = Walk::new(&self.ring, self.tries);
        loop {
            let base = self.ring.base(walk.at());
            let answer = self.transport.post(base, endpoint, body.clone(), timeout);
            let Failed { error, retry_after } = match answer.await {
                Ok(response) => {
                    walk.arrived();
                    return Ok(response);
                }
                Err(failed) => failed,
            };
            match walk.after(error.verdict(), retry_after) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(error.at_server(base)),
            }
        }
    }
}
