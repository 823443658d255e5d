//! Makes the files that come with `kjob-server` in a package, from the same description as the command
//! line: man pages, completions and a config file with every setting.
//!
//! `cargo run -p kjob-server --example package_files -- DIR`

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use clap_complete::{Shell, generate_to};
use clap_mangen::Man;
use kjob_server::config::Cli;

const PROGRAM: &str = "kjob-server";

/// Programs of those who look after a system.
const SECTION: &str = "8";

fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::args_os().nth(1).map(PathBuf::from);
    let dir = dir.ok_or("give the directory to make the files in")?;
    let (man, completions) = (dir.join("man"), dir.join("completions"));
    fs::create_dir_all(&man)?;
    fs::create_dir_all(&completions)?;
    let command = Cli::description().disable_help_subcommand(true);
    pages(&man, PROGRAM, command.clone())?;
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        generate_to(shell, &mut command.clone(), PROGRAM, &completions)?;
    }
    let sample = Cli::sample(&[("data_dir", "/var/lib/kjob")]);
    fs::write(dir.join("kjob.toml"), sample)?;
    Ok(())
}

/// A page for a command, and one for each below it. The settings are on the first alone.
fn pages(dir: &Path, name: &str, command: clap::Command) -> Result<(), Box<dyn Error>> {
    for below in command.get_subcommands() {
        pages(dir, &format!("{name}-{}", below.get_name()), below.clone())?;
    }
    // As it is typed: kjob-server store check.
    let typed = PROGRAM.to_owned() + &name[PROGRAM.len()..].replace('-', " ");
    // clap keeps names for as long as a program runs, and this one runs for a moment.
    let command = command.name(name.to_owned().leak() as &str);
    let man = Man::new(command.bin_name(typed)).section(SECTION);
    let mut page = Vec::new();
    man.render(&mut page)?;
    fs::write(dir.join(format!("{name}.{SECTION}")), page)?;
    Ok(())
}
