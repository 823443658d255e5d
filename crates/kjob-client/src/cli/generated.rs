//! What is made from the description of the command line: completions and man pages.

use std::fs;
use std::path::Path;

use clap_complete::Shell;

use super::args::Cli;
use super::failure::{Exit, Failure};
use super::session::print;

/// The completions of a shell, on stdout.
pub(crate) fn completions(shell: Shell) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::description(), "kjob", &mut script);
    print(&script)?;
    Ok(Exit::Done)
}

/// A page for the program and one for each command.
pub(crate) fn man(dir: &Path) -> Result<Exit, Failure> {
    fs::create_dir_all(dir)
        .and_then(|()| clap_mangen::generate_to(Cli::description(), dir))
        .map_err(Failure::file(dir))?;
    Ok(Exit::Done)
}
