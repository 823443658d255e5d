//! The program `kjob-server`: the server as it comes, with no handlers but its own.

use std::process::ExitCode;

use kjob_server::program::Program;

/// Memory comes back after a rush: the allocator of glibc kept gigabytes, and beyond all budgets.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    Program::default().main()
}
