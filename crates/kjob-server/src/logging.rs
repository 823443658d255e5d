//! Where log lines go: to the error output, for people on a terminal and as JSON elsewhere.
//!
//! Lines about a job carry `job_id`, `job_tag` and `query_id`, and never a payload.

use std::backtrace::Backtrace;
use std::io::{self, IsTerminal};
use std::panic::PanicHookInfo;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use crate::config::LogFormat;
use crate::job_log::Keeper;

/// Sends this process's log lines to its error output, and makes lines of panics.
///
/// `filter` is a level or levels by module; parts of it that cannot be read are left out, with a
/// line on the error output. Colours are used on a terminal, unless `NO_COLOR` is set.
///
/// # Errors
/// Log lines of this process go somewhere already.
pub fn init(filter: &str, format: LogFormat) -> Result<(), TryInitError> {
    let is_terminal = io::stderr().is_terminal();
    let is_json = match format {
        LogFormat::Auto => !is_terminal,
        LogFormat::Human => false,
        LogFormat::Json => true,
    };
    let lines = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_env_filter(EnvFilter::builder().parse_lossy(filter));
    let done = if is_json {
        lines
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .finish()
            .with(Keeper)
            .try_init()
    } else {
        let has_colours =
            is_terminal && std::env::var_os("NO_COLOR").is_none_or(|it| it.is_empty());
        lines
            .with_ansi(has_colours)
            .finish()
            .with(Keeper)
            .try_init()
    };
    if done.is_ok() {
        std::panic::set_hook(Box::new(log_panic));
    }
    done
}

/// A handler's panic fails its job only; its author is to find it among the other lines.
fn log_panic(panic: &PanicHookInfo<'_>) {
    tracing::error!(
        location = panic.location().map(tracing::field::display),
        thread = std::thread::current().name(),
        backtrace = %Backtrace::capture(),
        "panicked: {}",
        panic.payload_as_str().unwrap_or("with something that is no text")
    );
}
