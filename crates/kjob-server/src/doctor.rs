//! `kjob-server doctor`: looks at a host before it serves, with the settings that it would serve with.
//!
//! Each check measures one thing and says what was expected and what to do. Nothing is changed, and
//! no store is opened; so it may run beside a server too.

mod clock;
mod commands;
mod database;
mod directory;
mod limits;
mod network;
mod report;
mod store;
mod sync;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Args;
use tokio::runtime::Builder;

use crate::config::{Cli, Config, StoreKind, misspelt_in_environment};
use crate::program::{Program, fail};
use crate::run;

use clock::Clocks;
use report::{Finding, Report};

/// Something is in the way of serving.
const FOUND: u8 = 1;

/// How the doctor is to say what it found.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct DoctorArgs {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Checks everything, prints what was found, and tells how to exit.
pub(crate) fn main(cli: Cli, arguments: &DoctorArgs, program: Program) -> ExitCode {
    let report = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(examine(cli, program)),
        Err(error) => return fail(FOUND, error),
    };
    let text = match arguments.json {
        true => report.to_json(),
        false => report.to_string(),
    };
    if let Err(error) = io::stdout().write_all(text.as_bytes()) {
        return fail(FOUND, error);
    }
    match report.has_failed() {
        true => ExitCode::from(FOUND),
        false => ExitCode::SUCCESS,
    }
}

async fn examine(cli: Cli, program: Program) -> Report {
    let clocks = Clocks::now();
    let mut report = Report::default();
    let expected = "settings that the server takes and that hold together";
    // A store of the program's own keeps what it likes in the directory.
    let has_own_store = program.store.is_some();
    let config = match cli.resolve() {
        Ok(config) => {
            report.add(settings(&config, program, expected));
            config
        }
        // Whatever else there is to check depends on it.
        Err(error) => {
            report.add(
                Finding::new("config", error.to_string(), expected)
                    .fail("correct it; kjob-server --help lists the settings"),
            );
            return report;
        }
    };
    report.extend(variables());
    report.extend(commands::look(&config.routes));
    let settings = &config.settings;
    let mut segments = 0;
    let mut is_served = false;
    match &settings.store {
        StoreKind::Embedded => {
            let dir = &settings.data_dir;
            let place = directory::existing(dir);
            report.add(directory::usable(dir, &place));
            report.extend(directory::file_system(&place));
            if !has_own_store {
                let (finding, found) = store::look(dir);
                report.add(finding);
                segments = found.as_ref().map_or(0, |found| found.segments);
                is_served = found.is_some_and(|found| found.holder.is_some());
            }
            report.extend(directory::room(
                dir,
                &place,
                settings.max_stored_bytes as u64,
            ));
            report.add(sync::speed(&place));
        }
        StoreKind::Postgres(urls) => {
            report.add_all(database::look(urls).await);
        }
        StoreKind::Memory => report.add(
            Finding::new(
                "store",
                "jobs are kept in memory",
                "a store that outlives the process",
            )
            .warn(
                "set store to \"embedded\" or to a database, unless jobs may end with the server",
            ),
        ),
    }
    // The standard output is always there.
    let audit_log = settings.audit_log.as_deref();
    let audit_log = audit_log.filter(|path| path.as_os_str() != "-");
    report.extend(audit_log.map(directory::audit_log));
    report.extend(limits::open_files(settings.max_connections, segments));
    report.add(network::listen(settings.listen, is_served));
    report.extend(network::certificate(&config));
    report.add(clock::is_synchronised().await);
    let newest = match settings.store {
        StoreKind::Embedded => directory::newest_change(&settings.data_dir),
        _ => None,
    };
    report.add(clocks.sanity(newest));
    report
}

/// The config, and the files that it names.
fn settings(config: &Config, program: Program, expected: &'static str) -> Finding {
    let file = match &config.file {
        Some(file) => format!("{}: ", file.display()),
        None => "no config file: ".to_owned(),
    };
    let found = format!(
        "{file}{} settings given, {} routes",
        config.given_count(),
        config.routes.len()
    );
    match run::hold_together(config, program.registry) {
        Ok(()) => Finding::new("config", found, expected).ok(),
        Err(error) => Finding::new("config", error.to_string(), expected)
            .fail("correct it; kjob-server check prints all settings and where they are from"),
    }
}

/// Variables that nobody reads, though they look as if somebody should.
fn variables() -> Option<Finding> {
    let misspelt = misspelt_in_environment();
    let (name, meant) = misspelt.first()?;
    let found = format!("{} that are not known, such as {name}", misspelt.len());
    let finding = Finding::new("variables", found, "KJOB_ variables that are settings");
    Some(finding.warn(format!("did you mean {meant}?")))
}
