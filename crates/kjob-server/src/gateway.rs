//! Routes that pass jobs on: to other servers, and to programs on this machine.
//!
//! The program makes them of the `[[route]]` tables of its config file. A program of one's own may add
//! them to its registry itself:
//!
//! ```
//! use kjob_core::engine::Registry;
//! use kjob_server::gateway::{CommandRoute, Gateway, GatewayOptions, HttpRoute, Route, RouteKind, Wire};
//!
//! let upstream = "http://127.0.0.1:8080".parse()?;
//! let reports = RouteKind::Http(HttpRoute::new(upstream, Wire::Plain));
//! let count = RouteKind::Command(CommandRoute::new(vec!["wc".into(), "-c".into()]));
//! let routes = [Route::new("/report/*", reports), Route::new("/tools/wc", count)];
//!
//! let mut registry = Registry::default();
//! Gateway::new(GatewayOptions::default()).add_routes(&mut registry, &routes)?;
//! assert!(registry.serves("/report/daily") && registry.serves("/tools/wc"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod again;
mod answer;
mod command;
mod forward;
mod gather;
mod kinetica;
mod launch;
mod plain;
mod process;
mod reports;
mod route;
mod stderr;
mod trace;
mod upstream;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use kjob_core::engine::{Handler, Interrupted, Registry, RouteError};

pub use command::Limits;
pub use route::{CommandRoute, HttpRoute, OutputForm, Route, RouteKind, Wire};
pub use upstream::{BadEndpoint, BadUpstream, Upstream};

pub(crate) use forward::{Forwardable, Forwarding};
pub(crate) use launch::{LAUNCH_WORD, launch};
pub(crate) use reports::{REPORT_LEN_MAX, Reports, of_body};

use crate::outbound::{Outbound, Reach, ReachError};
use crate::wire::Endpoint;

/// What all routes that pass jobs on may take together.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct GatewayOptions {
    /// Bytes of a result, where the route does not say less. Default 64 MiB.
    pub max_result: usize,
    /// Bytes of memory for results that are being gathered, beyond 256 KiB of each. Default 1 GiB. A
    /// result that does not fit now waits for others.
    pub max_memory: usize,
    /// The program that starts commands: `kjob-server`, or one of one's own that calls
    /// [`Program::main`](crate::program::Program::main). Default: the program that runs.
    pub launcher: Option<PathBuf>,
}

impl Default for GatewayOptions {
    fn default() -> Self {
        Self {
            max_result: 64 << 20,
            max_memory: 1 << 30,
            launcher: None,
        }
    }
}

/// What routes that pass jobs on share. Clones are the same.
#[derive(Clone, Debug)]
pub struct Gateway {
    options: Arc<GatewayOptions>,
    memory: gather::Memory,
    launcher: command::Launcher,
    forwarding: Forwarding,
    reports: Reports,
}

/// Routes cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GatewayError {
    /// The registry refuses a route.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// The way to an upstream cannot be set up.
    #[error("route {endpoint:?}: {why}")]
    Reach {
        /// The route's endpoint pattern.
        endpoint: String,
        /// What is wrong.
        why: String,
    },
}

impl Gateway {
    /// One without routes.
    pub fn new(options: GatewayOptions) -> Self {
        Self {
            memory: gather::Memory::new(options.max_memory),
            launcher: command::Launcher::new(options.launcher.clone()),
            forwarding: Forwarding::default(),
            reports: Reports::default(),
            options: Arc::new(options),
        }
    }

    /// Adds routes to a registry, all that there are: where it is called again, headers of submits are
    /// forwarded as the new ones say. It connects to nobody and starts nothing, but reads files with
    /// certificates that routes name.
    ///
    /// # Errors
    /// See [`GatewayError`].
    pub fn add_routes(
        &self,
        registry: &mut Registry,
        routes: &[Route],
    ) -> Result<(), GatewayError> {
        for route in routes {
            let handler = self.handler(route).map_err(|why| GatewayError::Reach {
                endpoint: route.endpoint.clone(),
                why: why.to_string(),
            })?;
            // Whoever answers decides what the answer is.
            let mut options = route.options.clone().any_result().cooperative();
            if matches!(&route.kind, RouteKind::Http(http) if http.wire == Wire::Kinetica) {
                options = options.records();
            }
            registry.route_shared(&route.endpoint, handler, options)?;
        }
        self.forwarding.replace(routes);
        Ok(())
    }

    /// Which headers of submits are kept for upstreams.
    pub(crate) fn forwarding(&self) -> &Forwarding {
        &self.forwarding
    }

    /// What upstreams report of the jobs that they work on.
    pub(crate) fn reports(&self) -> &Reports {
        &self.reports
    }

    fn handler(&self, route: &Route) -> Result<Arc<dyn Handler>, ReachError> {
        let max_result = self.options.max_result;
        let max_result = route
            .max_result
            .map_or(max_result, |own| own.min(max_result));
        match &route.kind {
            RouteKind::Http(http) => {
                let outbound = Outbound::new(&reach(http))?;
                let (http, memory) = (http.clone(), self.memory.clone());
                let reports = self.reports.clone();
                Ok(match http.wire {
                    Wire::Plain => Arc::new(plain::Plain {
                        route: http,
                        outbound,
                        memory,
                        max_result,
                        reports,
                    }),
                    Wire::Kinetica => Arc::new(kinetica::Kinetica {
                        route: http,
                        outbound,
                        memory,
                        max_result,
                        reports,
                        may_repeat: route.options.on_interrupt != Interrupted::Fail,
                        current: AtomicUsize::new(0),
                    }),
                })
            }
            RouteKind::Command(command) => Ok(Arc::new(command::Command {
                route: command.clone(),
                launcher: self.launcher.clone(),
                memory: self.memory.clone(),
                max_result,
            })),
        }
    }
}

fn reach(route: &HttpRoute) -> Reach {
    let is_https = route.upstreams.iter().any(Upstream::is_https);
    let cancels_by_https = route
        .cancel_url
        .as_ref()
        .is_some_and(|url| url.starts_with("https:"));
    Reach {
        connect_timeout: route.connect_timeout,
        is_https: is_https || cancels_by_https,
        ca_file: route.ca_file.clone(),
    }
}

/// Whether the server answers at an endpoint itself, so that it cannot be a route.
pub(crate) fn is_reserved_endpoint(endpoint: &str) -> bool {
    Endpoint::at(endpoint).is_some()
}
