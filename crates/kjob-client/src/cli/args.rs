//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use kjob_client::{BadJobKey, Encoding, JobKey, Status};

/// Submits jobs to a server of the job protocol, and looks after them.
#[derive(Debug, Parser)]
#[command(name = "kjob", version, propagate_version = true, after_help = AFTER_HELP, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) connection: Connection,
    #[command(flatten)]
    pub(crate) machine: Machine,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// For machines. Not global, as `submit` has a `--json` of its own.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Machine {
    /// Prints JSON: one document, or one a line where there are several
    #[arg(long)]
    pub(crate) json: bool,
}

/// The variables are not read here: to clap what a variable says was given, and it would show the option in the
/// usage of every command.
#[derive(Args, Debug)]
#[command(next_help_heading = "Connection")]
pub(crate) struct Connection {
    /// Where the server is; several with commas between them are asked in turn [default:
    /// http://127.0.0.1:9191] [env: KJOB_URL]
    #[arg(long, global = true, value_name = "URL,…")]
    pub(crate) url: Option<String>,
    /// Who calls; the password is in KJOB_PASSWORD or the config file [env: KJOB_USER]
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) user: Option<String>,
    /// Trusts the authorities in this PEM file too [env: KJOB_CA]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Shows this certificate (PEM) to servers that ask for one; needs --key
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) cert: Option<PathBuf>,
    /// The private key (PEM) of the certificate
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
    /// How requests are encoded [default: binary]
    #[arg(long, global = true, value_name = "ENCODING", value_parser = encoding)]
    pub(crate) encoding: Option<Encoding>,
    /// How long one try of a call may take [default: 30s]
    #[arg(long, global = true, value_name = "DURATION", value_parser = duration)]
    pub(crate) call_timeout: Option<Duration>,
    /// How often a call is tried at each server [default: 5]
    #[arg(long, global = true, value_name = "N")]
    pub(crate) tries: Option<u32>,
    /// Config file [default: kjob/config.toml in $XDG_CONFIG_HOME or ~/.config]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Says nothing on stderr but errors
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Submits a call as a job, and prints its tag; with --wait, its result
    #[command(
        after_help = "For output as JSON, --json stands before the command: kjob --json submit …"
    )]
    Submit(Box<Submit>),
    /// Shows a job as it stands
    Get(Get),
    /// Waits until a job has ended, and prints its status
    Wait(Wait),
    /// Prints the result of a job, or writes it to a file
    Result(ResultOf),
    /// Lists jobs
    List(List),
    /// Asks jobs to stop
    Cancel(Cancel),
    /// Shows how the servers are
    Status(StatusOf),
    /// Prints the completions of a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Writes man pages to a directory
    #[command(hide = true)]
    Man {
        /// The directory
        dir: PathBuf,
    },
}

#[derive(Args, Debug)]
pub(crate) struct Submit {
    /// The endpoint to call, such as /demo/echo
    pub(crate) endpoint: String,
    #[command(flatten)]
    pub(crate) payload: PayloadFrom,
    /// The tag: the same submit under the same tag is the same job [default: a new one]
    #[arg(long)]
    pub(crate) tag: Option<String>,
    /// Lets the tag of a job that failed or was cancelled start a new one
    #[arg(long, requires = "tag")]
    pub(crate) reuse_tag_if_failed: bool,
    /// Order among waiting jobs, 9 first [default: 5]
    #[arg(long, value_name = "0-9", value_parser = clap::value_parser!(u8).range(0..=9))]
    pub(crate) priority: Option<u8>,
    /// Does not start the job before this long from now
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) delay: Option<Duration>,
    /// Fails the job if an attempt runs longer
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) job_timeout: Option<Duration>,
    /// Keeps the ended job this long
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) retention: Option<Duration>,
    /// A text that lists show with the job
    #[arg(long, value_name = "TEXT")]
    pub(crate) user_data: Option<String>,
    /// Any other option of /create/job
    #[arg(long = "option", value_name = "NAME=VALUE", value_parser = name_and_value)]
    pub(crate) options: Vec<(String, String)>,
    /// Waits for the end of the job, and prints its result
    #[arg(long)]
    pub(crate) wait: bool,
    #[command(flatten)]
    pub(crate) patience: Patience,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// At most one of these; without, the payload is the JSON text `{}`.
#[derive(Args, Debug)]
#[group(multiple = false)]
pub(crate) struct PayloadFrom {
    /// The payload is the JSON text in this file; - is the standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// The payload is the bare Avro in this file; - is the standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) binary: Option<PathBuf>,
    /// The payload is this JSON text
    #[arg(long, value_name = "JSON")]
    pub(crate) data: Option<String>,
}

/// How long a job is waited for.
#[derive(Args, Debug)]
pub(crate) struct Patience {
    /// Waits no longer than this, and exits with 5 if the job has not ended then
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
    /// Cancels the job on Ctrl-C; else it goes on
    #[arg(long)]
    pub(crate) cancel_on_interrupt: bool,
}

/// Where a result goes, and in what form.
#[derive(Args, Debug)]
pub(crate) struct Output {
    /// Writes the result to this file, which it replaces once it is whole; - is the standard output
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// The result in this encoding, where the server can turn it
    #[arg(long, value_enum, value_name = "ENCODING")]
    pub(crate) result_encoding: Option<ResultEncoding>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum ResultEncoding {
    Binary,
    Json,
}

#[derive(Args, Debug)]
pub(crate) struct Get {
    #[command(flatten)]
    pub(crate) machine: Machine,
    #[command(flatten)]
    pub(crate) job: Job,
}

#[derive(Args, Debug)]
pub(crate) struct Job {
    /// Id or tag of the job; id:7 and tag:7 say which it is
    #[arg(value_parser = job_key)]
    pub(crate) job: JobKey,
}

#[derive(Args, Debug)]
pub(crate) struct Wait {
    #[command(flatten)]
    pub(crate) machine: Machine,
    #[command(flatten)]
    pub(crate) job: Job,
    #[command(flatten)]
    pub(crate) patience: Patience,
}

#[derive(Args, Debug)]
pub(crate) struct ResultOf {
    #[command(flatten)]
    pub(crate) machine: Machine,
    #[command(flatten)]
    pub(crate) job: Job,
    /// Waits for the end of the job first
    #[arg(long)]
    pub(crate) wait: bool,
    #[command(flatten)]
    pub(crate) patience: Patience,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Args, Debug)]
pub(crate) struct List {
    #[command(flatten)]
    pub(crate) machine: Machine,
    /// Jobs that have ended too
    #[arg(long, short)]
    pub(crate) all: bool,
    /// Only jobs with one of these statuses: running, done, error, cancelled
    #[arg(long, value_name = "STATUS,…", value_delimiter = ',', value_parser = status)]
    pub(crate) status: Vec<Status>,
    /// Only calls of this endpoint
    #[arg(long)]
    pub(crate) endpoint: Option<String>,
    /// Only the job with this tag, ended or not
    #[arg(long)]
    pub(crate) tag: Option<String>,
    /// Only jobs with larger ids
    #[arg(long, value_name = "ID")]
    pub(crate) after: Option<i64>,
    /// At most this many
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    pub(crate) limit: u32,
    /// Looks again and again, this often [default: 2s]: a table that stays on a terminal, else a line
    /// for each change
    #[arg(long, value_name = "DURATION", value_parser = duration, num_args = 0..=1, default_missing_value = "2s")]
    pub(crate) watch: Option<Duration>,
}

#[derive(Args, Debug)]
pub(crate) struct Cancel {
    #[command(flatten)]
    pub(crate) machine: Machine,
    /// Ids or tags of the jobs
    #[arg(required = true, value_name = "JOB", value_parser = job_key)]
    pub(crate) jobs: Vec<JobKey>,
}

#[derive(Args, Debug)]
pub(crate) struct StatusOf {
    #[command(flatten)]
    pub(crate) machine: Machine,
}

impl Cli {
    /// Whether output is for machines.
    pub(crate) fn is_json(&self) -> bool {
        let of_command = match &self.command {
            Command::Get(Get { machine, .. })
            | Command::Wait(Wait { machine, .. })
            | Command::Result(ResultOf { machine, .. })
            | Command::List(List { machine, .. })
            | Command::Cancel(Cancel { machine, .. })
            | Command::Status(StatusOf { machine }) => machine.json,
            Command::Submit(_) | Command::Completions { .. } | Command::Man { .. } => false,
        };
        self.machine.json || of_command
    }

    /// The description that completions and man pages are made from.
    pub(crate) fn description() -> clap::Command {
        <Self as CommandFactory>::command()
    }
}

impl From<ResultEncoding> for Encoding {
    fn from(encoding: ResultEncoding) -> Self {
        match encoding {
            ResultEncoding::Binary => Self::Binary,
            ResultEncoding::Json => Self::Json,
        }
    }
}

/// Such as `90s`, `10m` or `1h 30m`; a bare number counts seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    humantime::parse_duration(text).map_err(|error| format!("{error}; write it like 90s or 10m"))
}

pub(crate) fn encoding(text: &str) -> Result<Encoding, String> {
    text.parse()
        .map_err(|_| "allowed: binary, json, snappy".to_owned())
}

/// clap by itself would take any text for a tag.
fn job_key(text: &str) -> Result<JobKey, BadJobKey> {
    text.parse()
}

fn status(text: &str) -> Result<Status, String> {
    let known = [
        Status::Running,
        Status::Done,
        Status::Error,
        Status::Cancelled,
    ];
    let found = known
        .into_iter()
        .find(|status| status.to_string().eq_ignore_ascii_case(text));
    found.ok_or_else(|| "allowed: running, done, error, cancelled".to_owned())
}

fn name_and_value(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write it as NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

const AFTER_HELP: &str = "\
Environment:
  KJOB_URL, KJOB_USER, KJOB_CA  as the options
  KJOB_PASSWORD                 the password of KJOB_USER
  KJOB_TOKEN                    a token, instead of user and password

Exit codes:
  0    done; the job waited for is DONE
  1    another error, such as a server that cannot be reached
  2    the command line or the config is wrong
  3    the job ended as ERROR
  4    the job was CANCELLED
  5    the job is still RUNNING
  6    there is no such job
  130  ended by Ctrl-C
  141  nobody reads the output any more";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::description().debug_assert();
    }

    #[test]
    fn durations_are_written_as_people_do() {
        for (text, seconds) in [("0", 0), ("90", 90), ("90s", 90), ("1h 30m", 5_400)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)));
        }
        for text in ["", "soon", "-1", "1.5"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn json_stands_before_the_command_or_after() {
        for (arguments, is_json) in [
            ("kjob get 7", false),
            ("kjob --json get 7", true),
            ("kjob get 7 --json", true),
            ("kjob --json submit /x", true),
            ("kjob submit /x --json file", false),
            ("kjob --json submit /x --json file", true),
        ] {
            let cli = Cli::try_parse_from(arguments.split(' ')).unwrap();
            assert_eq!(cli.is_json(), is_json, "{arguments}");
        }
    }

    #[test]
    fn a_watch_may_say_how_often() {
        for (arguments, seconds) in [
            ("kjob list", None),
            ("kjob list --watch", Some(2)),
            ("kjob list --watch 5s", Some(5)),
        ] {
            let cli = Cli::try_parse_from(arguments.split(' ')).unwrap();
            let Command::List(list) = cli.command else {
                panic!("{cli:?}")
            };
            assert_eq!(list.watch, seconds.map(Duration::from_secs));
        }
    }

    #[test]
    fn slips_are_refused() {
        for arguments in [
            "kjob",
            "kjob get",
            "kjob get a/b",
            "kjob submit /x --json a --binary b",
            "kjob submit /x --priority 10",
            "kjob submit /x --option name",
            "kjob list --status finished",
            "kjob list --limit 0",
            "kjob list --limit 50001",
            "kjob cancel",
            "kjob --encoding xml status",
        ] {
            assert!(
                Cli::try_parse_from(arguments.split(' ')).is_err(),
                "{arguments}"
            );
        }
    }
}
