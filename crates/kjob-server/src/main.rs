//! The program `kjob-server`: the server as it comes, with no handlers but its own.

use std::process::ExitCode;

use kjob_server::program::Program;

fn main() -> ExitCode {
    Program::default().main()
}
