//! A gateway of one's own: jobs that a server and a program run, in a process that is not `kjob-server`.
//!
//! ```console
//! $ cargo run -p kjob-server --example gateway -- --demo=false
//! ```
//!
//! It takes all that `kjob-server` takes, and serves two routes more.

use std::process::ExitCode;
use std::time::Duration;

use kjob_core::engine::Registry;
use kjob_server::gateway::{
    CommandRoute, Gateway, GatewayError, GatewayOptions, HttpRoute, Route, RouteKind, Wire,
};
use kjob_server::program::Program;

fn main() -> ExitCode {
    // Where the slow server is. A program of one's own decides itself how it is told.
    let upstream = std::env::var("REPORT_SERVER");
    let upstream = upstream.unwrap_or_else(|_| "http://127.0.0.1:8080".to_owned());
    match registry(&upstream) {
        Ok(registry) => Program::default().registry(registry).main(),
        Err(error) => fail(&error.to_string()),
    }
}

fn registry(upstream: &str) -> Result<Registry, Box<dyn std::error::Error>> {
    let mut reports = HttpRoute::new(upstream.parse()?, Wire::Plain);
    reports.response_timeout = Some(Duration::from_secs(300));
    let mut reports = Route::new("/report/*", RouteKind::Http(reports));
    // The server knows the header Idempotency-Key, so that a second try does no harm.
    reports.options = reports.options.concurrency(4).retry(3);

    let lines = CommandRoute::new(vec!["wc".to_owned(), "-l".to_owned()]);
    let lines = Route::new("/tools/lines", RouteKind::Command(lines));

    let mut registry = Registry::default();
    add(&mut registry, &[reports, lines])?;
    Ok(registry)
}

fn add(registry: &mut Registry, routes: &[Route]) -> Result<(), GatewayError> {
    // Commands are started by this very program: `Program::main` sees to that.
    Gateway::new(GatewayOptions::default()).add_routes(registry, routes)
}

#[allow(clippy::print_stderr, reason = "it is the program's own")]
fn fail(why: &str) -> ExitCode {
    eprintln!("gateway: {why}");
    ExitCode::FAILURE
}
