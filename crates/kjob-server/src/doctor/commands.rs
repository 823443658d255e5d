//! Programs of routes: whether they are there, and may be run.

use std::path::{Path, PathBuf};

use crate::gateway::{CommandRoute, Route, RouteKind};

use super::report::Finding;

/// `None` if no route has one.
pub(super) fn look(routes: &[Route]) -> Option<Finding> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let commands: Vec<&CommandRoute> = routes.iter().filter_map(command).collect();
    let missing: Vec<&str> = commands
        .iter()
        .filter(|command| !is_there(command, &path))
        .filter_map(|command| command.command.first().map(String::as_str))
        .collect();
    let expected = "programs of routes that can be run";
    let finding =
        |found| Finding::new("commands", found, expected).figure("missing", missing.len());
    match (commands.is_empty(), missing.first()) {
        (true, _) => None,
        (false, None) => Some(finding(format!("all {} are there", commands.len())).ok()),
        (false, Some(first)) => {
            let found = format!(
                "{} of {} are not, such as {first}",
                missing.len(),
                commands.len()
            );
            // The server starts all the same, and other routes work.
            Some(finding(found).warn(
                "install them, or correct command in the routes; jobs of these routes fail until then",
            ))
        }
    }
}

fn command(route: &Route) -> Option<&CommandRoute> {
    match &route.kind {
        RouteKind::Command(command) => Some(command),
        RouteKind::Http(_) => None,
    }
}

/// As it is looked for when it is run: by its path, or else where programs are.
fn is_there(command: &CommandRoute, path: &[PathBuf]) -> bool {
    let Some(program) = command.command.first() else {
        return false;
    };
    if program.contains('/') {
        let home = command.directory.as_deref().unwrap_or(Path::new(""));
        return can_be_run(&home.join(program));
    }
    path.iter().any(|dir| can_be_run(&dir.join(program)))
}

#[cfg(unix)]
fn can_be_run(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    let found = file.metadata();
    found.is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

#[cfg(not(unix))]
fn can_be_run(file: &Path) -> bool {
    file.is_file()
}
