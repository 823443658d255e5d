//! The program `kjob-server` with handlers that break every rule, beside one that breaks none.
//!
//! Takes what `kjob-server` takes.

use std::error::Error;
use std::process::ExitCode;

use kjob_server::program::Program;
use kjob_trials::hostile;

/// As in `kjob-server`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let registry = hostile::registry()?;
    Ok(Program::default().registry(registry).main())
}
