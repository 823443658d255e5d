//! What watchdogs and people look at: `/healthz`, `/readyz` and `/`.

use http::{Method, Response, StatusCode};

use kjob_core::StoreError;

use crate::refusal::Refusal;
use crate::reply::{self, ReplyBody};

/// Pages that are no wire endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Page {
    /// `/`: what this is.
    Home,
    /// `/healthz`: 200 for as long as the process can answer.
    Health,
    /// `/readyz`: 200 while jobs are taken.
    Ready,
    /// `/metrics`: what is counted.
    Metrics,
}

/// Why no jobs are taken.
#[derive(Clone, Debug)]
pub(crate) enum NotReady {
    /// Nothing can be stored until the process is started anew.
    StoreFailed(StoreError),
    /// The other nodes may take this one for gone: nothing is started until it has joined anew.
    NoLease,
    /// Jobs that run may end, no new ones are taken.
    Draining,
    /// The server is about to end.
    Stopping,
}

impl Page {
    const ALL: [Self; 4] = [Self::Home, Self::Health, Self::Ready, Self::Metrics];

    /// Where it is.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Home => "/",
            Self::Health => "/healthz",
            Self::Ready => "/readyz",
            Self::Metrics => "/metrics",
        }
    }

    /// The page at a path.
    pub(crate) fn at(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|page| page.path() == path)
    }

    /// Whether anybody may look at it, also where there are accounts: watchdogs have none.
    pub(crate) fn is_open(self) -> bool {
        matches!(self, Self::Health | Self::Ready)
    }

    /// Refuses other methods than pages have.
    pub(crate) fn check_method(method: &Method) -> Result<(), Refusal> {
        if method == Method::GET || method == Method::HEAD {
            return Ok(());
        }
        Err(Refusal::Method {
            found: method.clone(),
            allowed: "GET, HEAD",
        })
    }

    /// Answers for the page, unless it is that of the metrics, which are made elsewhere. Strangers are not told what is wrong with the store.
    pub(crate) fn answer(
        self,
        method: &Method,
        not_ready: Option<NotReady>,
        to_strangers: bool,
    ) -> Response<ReplyBody> {
        if let Err(refusal) = Self::check_method(method) {
            return reply::text_refusal(refusal.status(), &refusal);
        }
        match (self, not_ready) {
            (Self::Home | Self::Metrics, _) => reply::text(StatusCode::OK, HOME),
            (Self::Health, _) => reply::text(StatusCode::OK, "ok\n"),
            (Self::Ready, None) => reply::text(StatusCode::OK, "ready\n"),
            (Self::Ready, Some(NotReady::StoreFailed(_))) if to_strangers => {
                reply::text(StatusCode::SERVICE_UNAVAILABLE, "the store failed\n")
            }
            (Self::Ready, Some(NotReady::StoreFailed(error))) => {
                let reason = format!("the store failed: {error}\n");
                reply::text(StatusCode::SERVICE_UNAVAILABLE, reason)
            }
            (Self::Ready, Some(NotReady::NoLease)) => reply::text(
                StatusCode::SERVICE_UNAVAILABLE,
                "the lease of this node cannot be renewed\n",
            ),
            (Self::Ready, Some(NotReady::Draining)) => {
                reply::text(StatusCode::SERVICE_UNAVAILABLE, "draining\n")
            }
            (Self::Ready, Some(NotReady::Stopping)) => {
                reply::text(StatusCode::SERVICE_UNAVAILABLE, "stopping\n")
            }
        }
    }
}

const HOME: &str = concat!(
    "kjob-server ",
    env!("CARGO_PKG_VERSION"),
    ": asynchronous jobs, in the protocol of the Kinetica database.\n",
    "POST /create/job, /get/job, /admin/show/jobs, /admin/alter/jobs, ",
    "/show/system/status, /show/system/properties\n",
    "GET, POST /jobs; GET, DELETE /jobs/{job}; GET /jobs/{job}/result, /jobs/{job}/events\n",
    "GET /healthz, /readyz, /metrics, /openapi.json\n",
);
