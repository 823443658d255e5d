//! `kjob-server store …`: looking after a store, whether or not a server has it open.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use kjob_core::engine::SystemClock;
use kjob_core::{Clock, Store};
#[cfg(unix)]
use kjob_store::embedded::glance;
use kjob_store::embedded::{EmbeddedOptions, EmbeddedStore, OpenError, check};

use crate::config::{Config, StoreKind};
#[cfg(unix)]
use crate::control;
use crate::program::fail;
use crate::store_orders::{Answer, Order, PurgeOrder};

/// A check found damage.
const FOUND: u8 = 1;

/// Nothing was done, or not all of it.
const NOT_DONE: u8 = 3;

/// Look after the store in the data directory, whether or not a server has it open.
///
/// Exit codes: 0 done, and a check found no damage; 1 a check found damage; 2 the command line or
/// the config is wrong; 3 it could not be done.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct StoreArgs {
    #[command(subcommand)]
    command: StoreCommand,

    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
enum StoreCommand {
    /// Look for damage: every checksum, every cross-reference, every file.
    Check,
    /// Count jobs, bytes and files.
    Stats,
    /// Copy the store as it is at one moment to a new directory, which opens like any other.
    Backup {
        /// A directory that does not exist yet, or is empty.
        dir: PathBuf,
    },
    /// Delete all jobs that have expired, and move logs into their databases.
    Compact,
    /// Drop jobs that have ended, before their retention is over. All of them, unless options say
    /// which; never one that has not ended.
    Purge {
        /// Only jobs that ended at least this long ago, such as 7d.
        #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
        older_than: Option<Duration>,
        /// Only jobs that ended so: DONE, ERROR or CANCELLED. May be given more than once.
        #[arg(long, value_name = "STATUS", value_parser = ["DONE", "ERROR", "CANCELLED"])]
        status: Vec<String>,
        /// Only calls of this endpoint, or of all that begin so, as in "/report/*".
        #[arg(long, value_name = "PATTERN", value_parser = endpoint)]
        endpoint: Option<String>,
        /// Only jobs of this user.
        #[arg(long, value_name = "NAME")]
        owner: Option<String>,
        /// Count what would be dropped, and drop nothing.
        #[arg(long)]
        dry_run: bool,
    },
}

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
enum StoreCommandError {
    #[error("store: jobs in memory have no files; this is for store = \"embedded\"")]
    NoFiles,
    #[error(
        "store: jobs in PostgreSQL are looked at with its own tools; this is for store = \"embedded\""
    )]
    InDatabase,
    #[error("data_dir: there is no store in {dir}", dir = dir.display())]
    NoStore { dir: PathBuf },
    #[error(
        "the store in {dir} is user {owner}'s, and no server has it open: what root makes there is of no use \
         to that user; run this as that user (setpriv --reuid {owner} --clear-groups kjob-server store …)",
        dir = dir.display()
    )]
    #[cfg(unix)]
    Anothers { dir: PathBuf, owner: u32 },
    #[error("data_dir: {0}")]
    Open(OpenError),
    #[cfg(unix)]
    #[error("{locked}, and it cannot be asked: {why}")]
    NotAsked {
        locked: OpenError,
        why: control::ControlError,
    },
    #[error("store {order}: {why}")]
    Failed { order: &'static str, why: String },
    #[error("cannot {doing}: {source}")]
    System {
        doing: &'static str,
        #[source]
        source: io::Error,
    },
}

/// Carries a command out, prints what came of it, and tells how to exit.
pub(crate) fn main(config: &Config, arguments: StoreArgs) -> ExitCode {
    let answer = match carry_out(config, arguments.command) {
        Ok(answer) => answer,
        Err(error) => return fail(NOT_DONE, error),
    };
    let text = if arguments.json {
        // Structs of numbers and texts: turning them into JSON does not fail.
        serde_json::to_string_pretty(&answer).unwrap_or_default() + "\n"
    } else {
        answer.to_string()
    };
    if let Err(source) = io::stdout().write_all(text.as_bytes()) {
        let doing = "print";
        return fail(NOT_DONE, StoreCommandError::System { doing, source });
    }
    match answer {
        Answer::Check(check) if !check.findings.is_empty() => ExitCode::from(FOUND),
        _ => ExitCode::SUCCESS,
    }
}

fn carry_out(config: &Config, command: StoreCommand) -> Result<Answer, StoreCommandError> {
    let settings = &config.settings;
    match settings.store {
        StoreKind::Embedded => {}
        StoreKind::Memory => return Err(StoreCommandError::NoFiles),
        StoreKind::Postgres(_) => return Err(StoreCommandError::InDatabase),
    }
    let dir = &settings.data_dir;
    // Opening would make one.
    if !dir.join("catalogue.sqlite").exists() {
        return Err(StoreCommandError::NoStore { dir: dir.clone() });
    }
    let system = |doing| move |source| StoreCommandError::System { doing, source };
    let order = match command {
        // It reads files only, and what is damaged may be what opening needs.
        StoreCommand::Check => {
            let report = check(dir).map_err(StoreCommandError::Open)?;
            return Ok(Answer::Check(report.into()));
        }
        StoreCommand::Stats => Order::Stats,
        // A server may have another working directory.
        StoreCommand::Backup { dir } => Order::Backup {
            dir: std::path::absolute(dir).map_err(system("find the directory of the backup"))?,
        },
        StoreCommand::Compact => Order::Compact,
        StoreCommand::Purge {
            older_than,
            status,
            endpoint,
            owner,
            dry_run,
        } => {
            let mut purge = PurgeOrder {
                older_than_ms: None,
                statuses: status,
                endpoint,
                owner,
                dry_run,
            };
            purge.set_older_than(older_than);
            Order::Purge(purge)
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("start"))?;
    let options = EmbeddedOptions {
        accept_damaged_logs: settings.accept_damaged_logs,
        ..EmbeddedOptions::default()
    };
    #[cfg(unix)]
    check_user(dir)?;
    match EmbeddedStore::open(dir, options) {
        Ok(store) => runtime.block_on(carry_out_here(store, order)),
        #[cfg(unix)]
        Err(locked @ OpenError::Locked { .. }) => runtime.block_on(ask(dir, order, locked)),
        Err(error) => Err(StoreCommandError::Open(error)),
    }
}

/// Root would leave files in it that the server's user cannot write to; a server that has it open makes its own.
#[cfg(unix)]
fn check_user(dir: &Path) -> Result<(), StoreCommandError> {
    use std::os::unix::fs::MetadataExt;
    let system = |source| StoreCommandError::System {
        doing: "look at the data directory",
        source,
    };
    let owner = std::fs::metadata(dir).map_err(system)?.uid();
    let is_anothers = rustix::process::geteuid().is_root() && owner != 0;
    let is_open = || glance(dir).is_ok_and(|found| found.is_some_and(|it| it.holder.is_some()));
    if is_anothers && !is_open() {
        let dir = dir.to_owned();
        return Err(StoreCommandError::Anothers { dir, owner });
    }
    Ok(())
}

/// In a directory that nobody has open.
async fn carry_out_here(store: EmbeddedStore, order: Order) -> Result<Answer, StoreCommandError> {
    let name = order.name();
    let failed = |why| StoreCommandError::Failed { order: name, why };
    let store = Arc::new(store);
    let done = order.carry_out(&store, SystemClock.now()).await;
    let closed = store.close().await;
    let answer = done.map_err(failed)?;
    closed.map_err(|error| failed(error.to_string()))?;
    Ok(answer)
}

/// Through the server that has it open.
#[cfg(unix)]
async fn ask(dir: &Path, order: Order, locked: OpenError) -> Result<Answer, StoreCommandError> {
    let name = order.name();
    control::ask(dir, &order).await.map_err(|why| match why {
        control::ControlError::Refused(why) => StoreCommandError::Failed { order: name, why },
        why => StoreCommandError::NotAsked { locked, why },
    })
}

/// A pattern that may be one: the mistake is told before anything is opened.
fn endpoint(text: &str) -> Result<String, kjob_core::engine::RouteError> {
    text.parse::<kjob_core::purge::EndpointPattern>()
        .map(|pattern| pattern.to_string())
}
