//! The program `kjob-server`, whole: command line, config, log, signals and exit code. With
//! handlers of one's own it is a server of one's own.
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! use kjob_core::Payload;
//! use kjob_core::engine::{HandlerError, JobContext, Registry, RouteOptions};
//! use kjob_server::program::Program;
//!
//! async fn shout(_: JobContext, payload: Payload) -> Result<Payload, HandlerError> {
//!     Ok(Payload::binary(payload.data.to_ascii_uppercase()))
//! }
//!
//! fn main() -> ExitCode {
//!     let mut registry = Registry::default();
//!     let Ok(()) = registry.route("/shout", shout, RouteOptions::default()) else {
//!         return ExitCode::FAILURE;
//!     };
//!     Program::default().registry(registry).main()
//! }
//! ```

use std::error::Error;
use std::fmt::{self, Display};
use std::io::{self, Write};
use std::mem;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use kjob_core::Store;
use kjob_core::engine::{EngineConfig, Registry};
use tokio::runtime::{Builder, Handle, Runtime};

use crate::config::{Cli, Command, Config, misspelt_in_environment};
use crate::database;
use crate::doctor;
use crate::gateway::{LAUNCH_WORD, launch};
use crate::logging;
use crate::run::{Ended, hold_together, run};
use crate::store_cli;
use crate::threads::ConnectionThreads;
use crate::tls::Tls;
use crate::user_command::{self, Said, UserCommand};

/// The server failed.
const FAILED: u8 = 1;

/// The command line or the config is wrong.
const MISUSED: u8 = 2;

/// How long threads that a job left behind are waited for, once all jobs have ended.
const THREADS_TIMEOUT: Duration = Duration::from_millis(100);

/// What a program adds to the server, or does otherwise. By default nothing: that is `kjob-server`.
#[derive(Default)]
#[must_use = "a program does nothing until its main is called"]
pub struct Program {
    pub(crate) registry: Registry,
    pub(crate) engine: Option<fn(&mut EngineConfig)>,
    pub(crate) store: Option<OpenStore>,
    /// The runtime of the handlers.
    pub(crate) handlers: Option<Handle>,
    /// The threads of the connections.
    pub(crate) connections: Option<ConnectionThreads>,
}

/// Opens a store in the data directory. Called on a thread where it may block.
pub(crate) type OpenStore =
    Box<dyn FnOnce(&Path) -> Result<Arc<dyn Store>, Box<dyn Error + Send + Sync>> + Send>;

impl Program {
    /// Serves these endpoints too, beside those that the config names and the system's own. Unless
    /// all of them are [cooperative](kjob_core::engine::RouteOptions::cooperative), their handlers
    /// run on a runtime of their own, with `handler_threads` threads.
    pub fn registry(mut self, registry: Registry) -> Self {
        self.registry = registry;
        self
    }

    /// Adjusts what the config has no key for. Called with all that the config says already set.
    pub fn engine(mut self, adjust: fn(&mut EngineConfig)) -> Self {
        self.engine = Some(adjust);
        self
    }

    /// Keeps jobs in the store that `open` opens in the data directory, where the config says
    /// `embedded`.
    pub fn store<E: Into<Box<dyn Error + Send + Sync>>>(
        mut self,
        open: impl FnOnce(&Path) -> Result<Arc<dyn Store>, E> + Send + 'static,
    ) -> Self {
        self.store = Some(Box::new(|dir| open(dir).map_err(Into::into)));
        self
    }

    /// Reads the command line and the environment of the process, does what they say, and tells
    /// how to exit.
    pub fn main(self) -> ExitCode {
        let mut arguments = std::env::args_os().skip(1);
        if arguments.next().is_some_and(|word| word == LAUNCH_WORD) {
            return launch(arguments);
        }
        let mut cli = match Cli::read(std::env::args_os()) {
            Ok(cli) => cli,
            Err(answer) => {
                // With nowhere to print to there is only the exit code left to tell.
                let _ = answer.print();
                return ExitCode::from(u8::try_from(answer.exit_code()).unwrap_or(MISUSED));
            }
        };
        let command = cli.command.take();
        if let Some(Command::Doctor(arguments)) = command {
            return doctor::main(cli, &arguments, self);
        }
        let config = match cli.resolve() {
            Ok(config) => config,
            Err(error) => return fail(MISUSED, error),
        };
        match command {
            Some(Command::Check) => check(&config, self),
            Some(Command::Store(arguments)) => store_cli::main(&config, arguments),
            Some(Command::User { command }) => user(command, &config),
            Some(Command::Migrate) => migrate(&config),
            _ => serve(&config, self),
        }
    }
}

fn check(config: &Config, program: Program) -> ExitCode {
    if let Some(options) = config.tls.clone()
        && let Err(error) = Tls::load(options)
    {
        return fail(MISUSED, format_args!("tls: {error}"));
    }
    if let Err(error) = hold_together(config, program.registry) {
        return fail(MISUSED, error);
    }
    match io::stdout().write_all(config.to_toml().as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(FAILED, error),
    }
}

fn migrate(config: &Config) -> ExitCode {
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(FAILED, error),
    };
    match runtime.block_on(database::migrate(config)) {
        Ok(said) => match io::stdout().write_all(said.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(FAILED, error),
        },
        Err(error) => fail(FAILED, error),
    }
}

fn user(command: UserCommand, config: &Config) -> ExitCode {
    let file = config.settings.users_file.as_deref();
    let said = match user_command::run(command, file, &mut io::stdin().lock()) {
        Ok(said) => said,
        Err(error) => return fail(FAILED, error),
    };
    let text = match &said {
        Said::Text(text) => text.clone(),
        Said::Token(token) => format!("{}\n", token.reveal()),
    };
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(FAILED, error),
    }
}

fn serve(config: &Config, mut program: Program) -> ExitCode {
    let settings = &config.settings;
    if let Err(error) = logging::init(&settings.log, settings.log_format) {
        return fail(FAILED, error);
    }
    for (name, meant) in misspelt_in_environment() {
        tracing::warn!("the variable {name} is not known; did you mean {meant}?");
    }
    let handler_threads = (!program.registry.is_cooperative()).then(|| config.handler_threads());
    let started = start_runtimes(handler_threads);
    let Runtimes {
        server,
        connections,
        handlers,
    } = match started {
        Ok(runtimes) => runtimes,
        Err(error) => return fail(FAILED, error),
    };
    program.connections = Some(connections.clone());
    program.handlers = handlers.as_ref().map(|handlers| handlers.handle().clone());
    let ended = server.block_on(run(config, program));
    if let Ok(Ended::AtOnce(signal)) = ended {
        // As if it were killed. To end one thread after another would break off what jobs on the others wait for, and
        // that would be stored as their end.
        mem::forget((server, connections, handlers));
        return ExitCode::from(signal.exit_code());
    }
    // A job's thread that does not stop when it is told must not keep the process. The engine and its jobs go
    // first: they would take handlers that are dropped for such that have stopped by themselves.
    server.shutdown_timeout(THREADS_TIMEOUT);
    connections.stop(THREADS_TIMEOUT);
    if let Some(handlers) = handlers {
        handlers.shutdown_timeout(THREADS_TIMEOUT);
    }
    match ended {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => fail(FAILED, error),
    }
}

/// The threads of the process.
struct Runtimes {
    /// For the engine, and all else.
    server: Runtime,
    /// For connections, and what is done for them.
    connections: ConnectionThreads,
    /// For handlers of the program's own: one that blocks its thread, or never lets go of it, holds
    /// up no connection.
    handlers: Option<Runtime>,
}

fn start_runtimes(handler_threads: Option<usize>) -> io::Result<Runtimes> {
    let mut server = Builder::new_multi_thread();
    let handlers = handler_threads.map(|threads| {
        let mut handlers = Builder::new_multi_thread();
        handlers.worker_threads(threads).thread_name("kjob-handler");
        handlers.enable_all().build()
    });
    Ok(Runtimes {
        server: server.enable_all().build()?,
        connections: ConnectionThreads::for_all_processors()?,
        handlers: handlers.transpose()?,
    })
}

/// Says what went wrong, and tells how to exit.
pub(crate) fn fail(code: u8, error: impl Display) -> ExitCode {
    // With nowhere to print to there is only the exit code left to tell.
    let _ = writeln!(io::stderr(), "kjob-server: {error}");
    ExitCode::from(code)
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program")
            .field("registry", &self.registry)
            .field("has_store", &self.store.is_some())
            .finish_non_exhaustive()
    }
}
