//! The program `kjob-server`: reads its config, runs the server, and says how it ended.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use kjob_server::config::{Cli, Command, Config, misspelt_variables};
use kjob_server::logging;
use kjob_server::run::{Ended, run};

/// The server failed.
const FAILED: u8 = 1;

/// The command line or the config is wrong.
const MISUSED: u8 = 2;

/// How long threads that a job left behind are waited for, once all jobs have ended.
const THREADS_TIMEOUT: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    let cli = match Cli::read(std::env::args_os()) {
        Ok(cli) => cli,
        Err(answer) => {
            // With nowhere to print to there is only the exit code left to tell.
            let _ = answer.print();
            return ExitCode::from(u8::try_from(answer.exit_code()).unwrap_or(MISUSED));
        }
    };
    let command = cli.command;
    let config = match cli.resolve() {
        Ok(config) => config,
        Err(error) => return fail(MISUSED, error),
    };
    match command {
        Some(Command::Check) => check(&config),
        _ => serve(&config),
    }
}

fn check(config: &Config) -> ExitCode {
    match io::stdout().write_all(config.to_toml().as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(FAILED, error),
    }
}

fn serve(config: &Config) -> ExitCode {
    let settings = &config.settings;
    if let Err(error) = logging::init(&settings.log, settings.log_format) {
        return fail(FAILED, error);
    }
    let variables: Vec<String> = std::env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .collect();
    for (name, meant) in misspelt_variables(variables.iter().map(String::as_str)) {
        tracing::warn!("the variable {name} is not known; did you mean {meant}?");
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(FAILED, error),
    };
    let ended = runtime.block_on(run(config));
    // A job's thread that does not stop when it is told must not keep the process.
    runtime.shutdown_timeout(THREADS_TIMEOUT);
    match ended {
        Ok(Ended::Drained) => ExitCode::SUCCESS,
        Ok(Ended::AtOnce(signal)) => ExitCode::from(signal.exit_code()),
        Ok(_) => ExitCode::from(FAILED),
        Err(error) => fail(FAILED, error),
    }
}

fn fail(code: u8, error: impl Display) -> ExitCode {
    // With nowhere to print to there is only the exit code left to tell.
    let _ = writeln!(io::stderr(), "kjob-server: {error}");
    ExitCode::from(code)
}
