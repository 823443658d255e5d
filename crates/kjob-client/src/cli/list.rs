//! `kjob list`.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use console::Term;
use kjob_client::{JobList, List, ListedJob, Text};
use serde::Serialize;

use super::args;
use super::document::ListedDocument;
use super::failure::{Exit, Failure};
use super::follow::patiently;
use super::session::{Session, print, print_json};
use super::text::{shown, status, time_short};

/// A watch asks no more often, whatever it is told.
const WATCH_MIN: Duration = Duration::from_millis(10);

#[derive(Serialize)]
struct Document<'a> {
    jobs: Vec<ListedDocument<'a>>,
    next: Option<i64>,
}

pub(crate) async fn run(session: &Session, args: args::List) -> Result<Exit, Failure> {
    let list = filter(&args);
    let found = session.client.list(&list).await?;
    match args.watch.map(|every| every.max(WATCH_MIN)) {
        None => {
            show(session, &found)?;
            Ok(Exit::Done)
        }
        Some(every) if !session.is_json && io::stdout().is_terminal() => {
            redraw(session, &list, found, every).await
        }
        Some(every) => tell_changes(session, &list, found, every).await,
    }
}

fn filter(args: &args::List) -> List {
    let mut list = List::default().limit(args.limit as usize);
    if args.all {
        list = list.with_ended();
    }
    if !args.status.is_empty() {
        let words: Vec<_> = args.status.iter().map(ToString::to_string).collect();
        list = list.option("status", words.join(","));
    }
    if let Some(endpoint) = &args.endpoint {
        list = list.endpoint(endpoint.clone());
    }
    if let Some(tag) = &args.tag {
        list = list.tag(tag.clone());
    }
    if let Some(id) = args.after {
        list = list.after(id);
    }
    list
}

fn show(session: &Session, found: &JobList) -> Result<(), Failure> {
    if session.is_json {
        return print_json(&Document {
            jobs: found.jobs.iter().map(ListedDocument::from).collect(),
            next: found.next,
        });
    }
    print(format!("{}\n", table(found)).as_bytes())?;
    if let Some(next) = found.next {
        session.say(&format!("there are more: --after {next}"));
    }
    Ok(())
}

fn table(found: &JobList) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(HEADER);
    for job in &found.jobs {
        table.add_row(row(job));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    if let Some(ids) = table.column_mut(0) {
        ids.set_cell_alignment(CellAlignment::Right);
    }
    table.trim_fmt()
}

const HEADER: [&str; 7] = [
    "ID", "TAG", "STATUS", "ENDPOINT", "RECEIVED", "USER", "DATA",
];

fn row(job: &ListedJob) -> [String; 7] {
    let text = |text: &str| shown(text).into_owned();
    [
        job.id.to_string(),
        text(job.tag.as_deref().unwrap_or_default()),
        status(&job.status, Some(&job.flags)),
        text(&job.endpoint),
        time_short(job.received_at_millis).unwrap_or_default(),
        text(&job.user),
        text(&job.user_data),
    ]
}

/// Draws the table anew each time; as much of it as the terminal has room for, the latest jobs.
async fn redraw(
    session: &Session,
    list: &List,
    mut found: JobList,
    every: Duration,
) -> Result<Exit, Failure> {
    let term = Term::stdout();
    loop {
        let (height, width) = term.size();
        let (height, width) = (usize::from(height), usize::from(width));
        let table = table(&found);
        let mut lines = table.lines();
        let header = lines.next().unwrap_or_default();
        let rows: Vec<_> = lines.collect();
        let room = height.saturating_sub(3).max(1);
        let hidden = rows.len().saturating_sub(room);
        let mut screen = format!(
            "{} jobs, every {}",
            rows.len(),
            humantime::format_duration(every)
        );
        if hidden > 0 {
            screen.push_str(&format!(", the first {hidden} not shown"));
        }
        for line in std::iter::once(&header).chain(rows.iter().skip(hidden)) {
            screen.push('\n');
            screen.push_str(&console::truncate_str(line, width, "…"));
        }
        term.clear_screen()?;
        term.write_line(&screen)?;
        tokio::time::sleep(every).await;
        found = patiently(session, async || session.client.list(list).await).await?;
    }
}

/// Prints a line for each job at first, and then for each that is new or has changed; also for those
/// that have left the list because they ended.
async fn tell_changes(
    session: &Session,
    list: &List,
    mut found: JobList,
    every: Duration,
) -> Result<Exit, Failure> {
    let mut known: BTreeMap<i64, ListedJob> = BTreeMap::new();
    loop {
        let mut gone = std::mem::take(&mut known);
        for job in found.jobs {
            let before = gone.remove(&job.id);
            if before.as_ref() != Some(&job) {
                tell(session, &job)?;
            }
            known.insert(job.id, job);
        }
        for (id, mut job) in gone {
            match patiently(session, async || session.client.get(id).await).await {
                Ok(now) => {
                    job.flags = Text::copy_from(now.phase().unwrap_or_default());
                    job.status = now.status;
                    tell(session, &job)?;
                }
                // Its time was over already.
                Err(error) if error.is_no_such_job() => {}
                Err(error) => return Err(error.into()),
            }
        }
        tokio::time::sleep(every).await;
        found = patiently(session, async || session.client.list(list).await).await?;
    }
}

fn tell(session: &Session, job: &ListedJob) -> Result<(), Failure> {
    match session.is_json {
        true => print_json(&ListedDocument::from(job)),
        false => {
            // The texts are made safe one by one, as the tabs between them are to stay.
            print(format!("{}\n", row(job).join("\t")).as_bytes())
        }
    }
}
