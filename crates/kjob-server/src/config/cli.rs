//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use super::database::without_password;
use super::{Config, ConfigError, Keys};
use crate::doctor::DoctorArgs;
use crate::options::meant;
use crate::store_cli::StoreArgs;
use crate::user_command::UserCommand;

/// The server of kjob: durable asynchronous jobs, for the clients of the Kinetica database.
///
/// Every setting is a flag, a KJOB_ variable and a key of the config file; a flag wins over a
/// variable, and a variable over the file. Keys of the file are written with _ instead of -. Routes, by
/// which jobs are run by other servers and by programs, are in the file alone.
///
/// SIGTERM or SIGINT stops it: no new jobs are taken, running ones may go on for the drain
/// timeout. A second signal ends it at once. SIGHUP makes it read the users file, the certificate and
/// its key, and the routes of the config file anew, and open the audit log anew. Exit codes: 0 stopped
/// as asked; 1 it failed; 2 the command line or the config is wrong; 130 or 143 ended at once by a second
/// SIGINT or SIGTERM.
#[derive(Clone, Debug, Parser)]
#[command(name = "kjob-server", version)]
pub struct Cli {
    /// What to do; without one, serve.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// A config file, in TOML.
    #[arg(
        long,
        global = true,
        env = "KJOB_CONFIG",
        hide_env_values = true,
        value_name = "FILE"
    )]
    pub config: Option<PathBuf>,

    // Under a heading, so that the few options of a command's own stand before them in its help.
    #[command(flatten, next_help_heading = "Settings")]
    keys: Keys,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
#[non_exhaustive]
pub enum Command {
    /// Check the config, print what would be used, and exit.
    Check,
    /// Check this host with the settings that the server would have, before it serves.
    ///
    /// Every check has a line that begins with ok, warn or fail, and says what was found and what is
    /// expected; below it, what to do. Nothing is changed, and a server may be running meanwhile.
    ///
    /// Exit codes: 0 nothing fails, though there may be warnings; 1 something does; 2 the command line is
    /// wrong.
    Doctor(DoctorArgs),
    /// Make the tables of the database that `store` names, or bring them to this program's version.
    Migrate,
    /// Look after the store in the data directory, whether or not a server has it open.
    Store(StoreArgs),
    /// Change the users file.
    User {
        /// What to do with it.
        #[command(subcommand)]
        command: UserCommand,
    },
}

impl Cli {
    /// Reads a command line, the program's name first, and the environment.
    ///
    /// # Errors
    /// What to print and how to exit: for a mistake as well as for `--help` and `--version`.
    pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let arguments: Vec<OsString> = arguments.into_iter().collect();
        let matches = Self::description().try_get_matches_from(&arguments);
        let matches = matches.map_err(|error| naming_variable(error, &arguments))?;
        let mut cli = Self::from_arg_matches(&matches)?;
        cli.keys.note_variables(&matches);
        Ok(cli)
    }

    /// The whole command line, with each setting's default in its help: for man pages and completions too.
    pub fn description() -> clap::Command {
        let mut command = Self::command();
        // clap must not fill the defaults in itself: they would win over the config file.
        for (name, _, default) in Keys::TABLE {
            command = command.mut_arg(name, |arg| {
                let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
                arg.help(format!("{help} [default: {default}]"))
            });
        }
        command
    }

    /// Reads the config file, if there is one, and resolves all settings.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn resolve(self) -> Result<Config, ConfigError> {
        let file = match &self.config {
            Some(path) => Keys::from_file(path)?,
            None => Keys::default(),
        };
        let mut config = Config::resolve(self.keys.or(file))?;
        config.file = self.config;
        Ok(config)
    }
}

/// Of the names of variables, those that look like one of ours with a slip in it, each with the one
/// that may have been meant. What else begins with `KJOB_` may be another program's.
///
/// ```
/// use kjob_server::config::misspelt_variables;
/// let names = ["KJOB_WORKER", "KJOB_WORKERS", "KJOB_COLOUR", "WORKER"];
/// assert_eq!(misspelt_variables(names), [("KJOB_WORKER", "KJOB_WORKERS")]);
/// ```
pub fn misspelt_variables<'a>(
    names: impl IntoIterator<Item = &'a str>,
) -> Vec<(&'a str, &'static str)> {
    let variable_meant = |name: &'a str| {
        let key = name.strip_prefix("KJOB_")?.to_lowercase();
        let key = meant(&key, Keys::NAMES)?;
        let (_, variable, _) = Keys::TABLE.iter().find(|(name, ..)| *name == key)?;
        Some((name, *variable))
    };
    names.into_iter().filter_map(variable_meant).collect()
}

/// Those of this process that are [misspelt](misspelt_variables).
pub(crate) fn misspelt_in_environment() -> Vec<(String, &'static str)> {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let names: Vec<String> = names.collect();
    let misspelt = misspelt_variables(names.iter().map(String::as_str));
    let owned = misspelt
        .into_iter()
        .map(|(name, meant)| (name.to_owned(), meant));
    owned.collect()
}

/// clap names the flag where a variable has a bad value, and repeats the value; names the variable instead, and no
/// password.
fn naming_variable(mut error: clap::Error, arguments: &[OsString]) -> clap::Error {
    if let Some(ContextValue::String(value)) = error.get(ContextKind::InvalidValue) {
        let masked = ContextValue::String(without_password(value));
        error.insert(ContextKind::InvalidValue, masked);
    }
    let Some(ContextValue::String(arg)) = error.get(ContextKind::InvalidArg) else {
        return error;
    };
    // Such as "--workers <N>" or "--demo[=<BOOL>]".
    let flag = arg.split([' ', '[', '=']).next().unwrap_or_default();
    let is_flag_given = arguments.iter().any(|given| {
        let given = given.to_string_lossy();
        given
            .strip_prefix(flag)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    });
    let key = flag.trim_start_matches('-').replace('-', "_");
    let row = Keys::TABLE.iter().find(|(name, ..)| *name == key);
    if let Some((_, variable, _)) = row
        && !is_flag_given
        && std::env::var_os(variable).is_some()
    {
        let named = ContextValue::String((*variable).to_owned());
        error.insert(ContextKind::InvalidArg, named);
    }
    error
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn read(arguments: &[&str]) -> Result<Cli, String> {
        let arguments = ["kjob-server"].iter().chain(arguments);
        Cli::read(arguments.map(OsString::from)).map_err(|error| error.to_string())
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::description().debug_assert();
    }

    /// clap repeats a value that it does not take.
    #[test]
    fn no_slip_in_a_store_shows_its_password() {
        let url = "postgres://kjob:secret@db:5432/jobs?sslmode=disable";
        for slip in [
            format!("\"{url}\""),
            format!(",{url}"),
            format!("embedded,{url}"),
            url.replace("postgres", "Postgres"),
            url.replace("postgres", "pg"),
            url.replace("postgres://", "postgres:/"),
            url.replace("postgres://", ""),
            "host=db password=secret".to_owned(),
        ] {
            let error = read(&["--store", &slip]).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
            assert!(error.contains("--store"), "{error}");
        }
        assert!(read(&["--store", &format!(" {url} ")]).is_ok());
    }

    #[test]
    fn flags_win_over_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kjob.toml");
        fs::write(&path, "workers = 4\nretention = '1h'\n").unwrap();
        let cli = read(&["--config", path.to_str().unwrap(), "--workers", "9"]).unwrap();
        let config = cli.resolve().unwrap();
        assert_eq!(config.settings.workers, 9);
        assert_eq!(config.settings.retention.as_secs(), 3_600);
        assert!(!config.demo, "a config file says what is served");
    }

    #[test]
    fn settings_may_stand_before_and_after_the_command() {
        for arguments in [["check", "--workers=3"], ["--workers=3", "check"]] {
            let cli = read(&arguments).unwrap();
            assert_eq!(cli.command, Some(Command::Check));
            assert_eq!(cli.resolve().unwrap().settings.workers, 3);
        }
    }

    #[test]
    fn a_switch_takes_a_value_only_after_an_equals_sign() {
        let cli = read(&["--insecure", "--demo=false", "check"]).unwrap();
        assert_eq!(cli.command, Some(Command::Check));
        let config = cli.resolve().unwrap();
        assert!(config.settings.insecure && !config.demo);
    }

    #[test]
    fn other_than_loopback_addresses_need_a_word_more() {
        let refused = read(&["--listen", "0.0.0.0:9191"])
            .unwrap()
            .resolve()
            .unwrap_err();
        assert!(
            matches!(refused, ConfigError::NotLoopback { .. }),
            "{refused}"
        );
        for arguments in [
            &["--listen", "0.0.0.0:9191", "--insecure"][..],
            &["--listen", "[::1]:0"],
            &["--listen", "127.7.7.7:1"],
        ] {
            read(arguments).unwrap().resolve().unwrap();
        }
    }

    #[test]
    fn a_bad_flag_is_named_with_what_is_allowed() {
        let error = read(&["--workers", "none"]).unwrap_err();
        assert!(error.contains("--workers <N>"), "{error}");
        assert!(error.contains("a number from 1 to 1000000000"), "{error}");
        let error = read(&["--worker", "3"]).unwrap_err();
        assert!(error.contains("--workers"), "{error}");
    }

    #[test]
    fn the_help_tells_every_default() {
        let help = Cli::description().render_long_help().to_string();
        for (name, variable, default) in Keys::TABLE {
            assert!(
                help.contains(&format!("--{}", name.replace('_', "-"))),
                "{name}"
            );
            assert!(help.contains(variable), "{variable}");
            assert!(help.contains(&format!("[default: {default}]")), "{default}");
        }
    }
}
