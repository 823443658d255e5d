//! The program `kjob`: submits jobs from the command line, and looks after them.
//!
//! Data goes to stdout, everything for people to stderr, and the exit code says how the job ended
//! (docs/cli.md).

mod args;
mod cancel;
mod document;
mod failure;
mod follow;
mod generated;
mod list;
mod look;
mod replace;
mod session;
mod settings;
mod status;
mod submit;
mod text;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};
use failure::{Exit, Failure};
use session::Session;

fn main() -> ExitCode {
    let cli = Cli::parse();
    // One thread: it waits for one server, and for one terminal.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let ended = match runtime {
        Ok(runtime) => {
            let ended = runtime.block_on(run(cli));
            // A host name that is still looked up would be waited for.
            runtime.shutdown_background();
            ended
        }
        Err(error) => Err(Failure::Runtime(error)),
    };
    let exit = ended.unwrap_or_else(|failure| {
        let exit = failure.exit();
        if exit != Exit::NobodyReads {
            session::say(&failure.line());
        }
        exit
    });
    ExitCode::from(exit)
}

async fn run(cli: Cli) -> Result<Exit, Failure> {
    match cli.command {
        Command::Completions { shell } => return generated::completions(shell),
        Command::Man { dir } => return generated::man(&dir),
        _ => {}
    }
    let session = Session::new(&cli)?;
    tokio::select! {
        // In this order: a payload is read from the standard input at once, before anybody listens to Ctrl-C,
        // which then does what it always does.
        biased;
        ended = call(&session, cli.command) => ended,
        () = session.interrupted() => Ok(Exit::Interrupted),
    }
}

async fn call(session: &Session, command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Submit(args) => submit::run(session, *args).await,
        Command::Get(args) => look::get(session, args).await,
        Command::Wait(args) => look::wait(session, args).await,
        Command::Result(args) => look::result(session, args).await,
        Command::List(args) => list::run(session, args).await,
        Command::Cancel(args) => cancel::run(session, args).await,
        Command::Status(_) => status::run(session).await,
        // Those that need no server.
        Command::Completions { shell } => generated::completions(shell),
        Command::Man { dir } => generated::man(&dir),
    }
}
