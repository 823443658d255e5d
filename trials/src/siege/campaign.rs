//! One run: quiet, each attack by itself with honest clients beside it, quiet again.

// It talks to a person at a terminal.
#![allow(clippy::print_stdout)]

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

use super::bound::memory_bound;
use super::honest::{Honest, Times};
use super::report::{Row, print};
use super::server::Server;
use super::tally::Counts;
use super::{ATTACKS, Attack, Terms};

/// The attack that is none: no slower than beside this are honest clients by the server's doing.
const CONTROL: &str = "spin";

/// How long an attack may take beyond its time, to see the last answers. A server that owes them for longer is
/// not besieged further: each attack would take as long.
const OVERTIME: Duration = Duration::from_secs(240);

/// The same of a short siege, which has fewer requests to wait for.
const OVERTIME_SHORT: Duration = Duration::from_secs(90);

/// How long the server may take to let go of what an attack held.
const RECOVERY: Duration = Duration::from_secs(60);

/// Files that come and go by themselves: honest clients' connections, and the store's.
const FILES_SLACK: u64 = 64;

/// Memory that the allocator, and the memory of what was stored, may keep once all is quiet again.
const MEMORY_SLACK: u64 = 256 << 20;

/// How long the server may take to end.
const STOP_PATIENCE: Duration = Duration::from_secs(60);

/// What to run.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// The server's program.
    pub server: PathBuf,
    /// The program that runs one attack: this one.
    pub attacker: PathBuf,
    /// Names of attacks; all where there are none.
    pub only: Vec<String>,
    /// How attacks are made.
    pub terms: Terms,
    /// Whether it counts as a fault if honest clients are much slower than in the quiet.
    pub judges_latency: bool,
}

/// Runs it and prints a table. Whether nothing was wrong.
///
/// # Errors
/// What kept it from finding out.
pub async fn run(campaign: &Campaign) -> Result<bool> {
    let is_chosen = |attack: &&Attack| {
        campaign.only.is_empty() || campaign.only.iter().any(|name| name == attack.name)
    };
    let mut chosen: Vec<&Attack> = ATTACKS.iter().filter(is_chosen).collect();
    // Each kind of server is started once.
    chosen.sort_by_key(|attack| (attack.accounts, attack.server));
    let mut rows = Vec::new();
    // What the machine does to honest clients while others work beside the server.
    let mut control = None;
    for attacks in
        chosen.chunk_by(|one, other| (one.accounts, one.server) == (other.accounts, other.server))
    {
        rows.extend(besiege(campaign, attacks, &mut control).await?);
    }
    Ok(print(&rows))
}

/// Holds one server against some attacks.
async fn besiege(
    campaign: &Campaign,
    attacks: &[&Attack],
    control: &mut Option<f64>,
) -> Result<Vec<Row>> {
    let first = attacks.first();
    let arguments = first.map_or(&[][..], |attack| attack.server);
    let accounts = first.is_some_and(|attack| attack.accounts);
    let home = TempDir::new().context("a directory for the server")?;
    let mut server = Server::start(&campaign.server, home.path(), arguments, accounts)?;
    let bound = memory_bound(arguments)?;
    let is_tight = !arguments.is_empty();
    let url = format!("http://{}", server.address);
    let honest = Honest::begin(&url)?;

    let mut rows = Vec::new();
    // What is loaded once is no part of the quiet.
    sleep(campaign.terms.time / 4).await;
    honest.take_times();
    let mut before = Row::begin("(quiet before)", &server, bound, is_tight)?;
    sleep(campaign.terms.time).await;
    let mut quiet = honest.take_times();
    before.end(&server, &honest, quiet.clone(), &Times::default())?;
    rows.push(before);

    for attack in attacks {
        let mut row = Row::begin(attack.name, &server, bound, is_tight)?;
        let counts = attack_from_outside(campaign, attack, &server).await?;
        let owes_answers = counts.is_none();
        row.counts = counts.unwrap_or_default();
        // Whoever does not get through cannot do harm, and shows nothing.
        if attack.name != CONTROL && row.counts.connections == 0 {
            row.violations(["the attack did nothing".to_owned()]);
        }
        if owes_answers {
            row.violations(["the attack did not end: answers are missing".to_owned()]);
        }
        row.end(&server, &honest, honest.take_times(), &quiet)?;
        let ended = server.ended();
        let is_over = owes_answers || ended.is_some();
        row.violations(ended);
        if attack.name == CONTROL {
            *control = row.ratio(50);
        } else if campaign.judges_latency {
            row.judge_latency(*control);
        }
        if !is_over {
            recover(&server, &mut row).await?;
        }
        println!("{}", row.verdict());
        rows.push(row);
        if is_over {
            return Ok(rows);
        }
        honest.take_times();
    }

    let mut after = Row::begin("(quiet after)", &server, bound, is_tight)?;
    sleep(campaign.terms.time).await;
    let times = honest.take_times();
    quiet = quiet.with(&times);
    after.end(&server, &honest, times, &quiet)?;
    let at_rest = rows.first().map_or(0, |row| row.before.memory);
    if after.memory_after > at_rest + MEMORY_SLACK {
        let (at_rest, kept) = (at_rest >> 20, after.memory_after >> 20);
        after.violations([format!(
            "memory: {at_rest} MiB at first, {kept} MiB at last"
        )]);
    }
    let (jobs, wrong) = honest.end().await?;
    after.note(format!("{jobs} acknowledged jobs looked at again"));
    after.violations(wrong);
    after.violations(server.complaints());
    if let Err(error) = server.stop(STOP_PATIENCE).await {
        after.violations([error.to_string()]);
    }
    rows.push(after);
    Ok(rows)
}

/// What it counted; nothing where it did not end.
async fn attack_from_outside(
    campaign: &Campaign,
    attack: &Attack,
    server: &Server,
) -> Result<Option<Counts>> {
    let terms = &campaign.terms;
    let mut command = Command::new("taskset");
    command
        .args(["--cpu-list", &last_processor()?])
        .args(["chrt", "--idle", "0"])
        .arg(&campaign.attacker)
        .args(["--attack", attack.name])
        .args(["--address", &server.address.to_string()])
        .args(["--seconds", &terms.time.as_secs().to_string()])
        .args(["--requests", &terms.requests.to_string()])
        .args(["--seed", &terms.seed.to_string()])
        .args(terms.is_short.then_some("--short"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    let child = command.spawn().context("could not start an attacker")?;
    let overtime = match terms.is_short {
        true => OVERTIME_SHORT,
        false => OVERTIME,
    };
    let Ok(output) = timeout(terms.time + overtime, child.wait_with_output()).await else {
        return Ok(None);
    };
    let output = output?;
    let line = String::from_utf8_lossy(&output.stdout);
    match serde_json::from_str(line.trim()) {
        Ok(counts) if output.status.success() => Ok(Some(counts)),
        _ => {
            let mut counts = Counts::default();
            let what = format!("the attacker ended with {}", output.status);
            counts.violations.insert(what, 1);
            Ok(Some(counts))
        }
    }
}

/// The number of the last of those that this process may use.
fn last_processor() -> Result<String> {
    let status = std::fs::read_to_string("/proc/self/status").context("/proc/self/status")?;
    let lines = &mut status.lines();
    let list = lines.find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let last = list.and_then(|list| list.trim().rsplit([',', '-']).next());
    Ok(last.context("no processor")?.to_owned())
}

/// Waits until the server has let go of the files of an attack.
async fn recover(server: &Server, row: &mut Row) -> Result<()> {
    let begun = Instant::now();
    loop {
        let now = server.vitals()?;
        if now.files <= row.before.files + FILES_SLACK {
            row.memory_after = now.memory;
            return Ok(());
        }
        if begun.elapsed() >= RECOVERY {
            row.memory_after = now.memory;
            let (files, before) = (now.files, row.before.files);
            row.violations([format!("files: {before} before, {files} a while after")]);
            return Ok(());
        }
        sleep(Duration::from_millis(100)).await;
    }
}
