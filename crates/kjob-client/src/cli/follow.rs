//! Waiting for a job, and showing how it goes.

use std::pin::pin;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kjob_client::{Error, Job, JobKey};
use tokio::time::{Instant, sleep};

use super::args::Patience;
use super::document::JobDocument;
use super::failure::Failure;
use super::session::{Session, print_json};
use super::text::shown;

/// How long a server that was there may be away.
const OUTAGE_MAX: Duration = Duration::from_secs(60);

/// The pause between two tries while it is.
const OUTAGE_PAUSE: Duration = Duration::from_secs(1);

/// Lines that are no terminal tell of progress in steps of this many percent.
const STEP: i32 = 10;

/// Waits until the job has ended or the time is up, and gives it as it stands then. `None` if Ctrl-C
/// ended the wait before. For machines, `lines` prints each change but the last.
pub(crate) async fn follow(
    session: &Session,
    key: &JobKey,
    patience: &Patience,
    lines: bool,
) -> Result<Option<Job>, Failure> {
    let _taken = session.take_interrupts();
    let mut interrupt = pin!(tokio::signal::ctrl_c());
    let mut stop = Stop::NotTold;
    let mut telling = pin!(patiently(session, async || session
        .client
        .cancel(key)
        .await));
    // Without a limit, one that is not looked at.
    let mut deadline = pin!(sleep(patience.timeout.unwrap_or_default()));
    let mut watch = session.client.watch(key.clone());
    let mut progress = Progress::new(session, key);
    let mut last: Option<Job> = None;
    loop {
        let is_first = last.is_none();
        let next = async {
            match is_first {
                true => watch.next().await.transpose(),
                false => patiently(session, async || watch.next().await.transpose()).await,
            }
        };
        tokio::select! {
            biased;
            next = next => match next? {
                Some(job) if job.running => {
                    progress.show(&job);
                    if lines && session.is_json {
                        print_json(&JobDocument::new(key, &job))?;
                    }
                    last = Some(job);
                }
                Some(job) => {
                    progress.end(&job);
                    return Ok(Some(job));
                }
                None => return Ok(last),
            },
            // Not before the first look, which is what a timeout of zero asks for.
            () = &mut deadline, if patience.timeout.is_some() && !is_first => return Ok(last),
            // Beside the rest, as a server that does not answer must not keep Ctrl-C from being heard.
            told = &mut telling, if stop == Stop::Asked => {
                told?;
                stop = Stop::Told;
                progress.say("the job is told to stop");
            }
            _ = &mut interrupt => {
                if patience.cancel_on_interrupt && stop == Stop::NotTold {
                    stop = Stop::Asked;
                    interrupt.set(tokio::signal::ctrl_c());
                    progress.say("cancelling the job; Ctrl-C again ends kjob at once");
                    continue;
                }
                progress.clear();
                session.say(&match stop {
                    Stop::NotTold => format!("the job goes on; kjob wait {key} waits for it again"),
                    Stop::Asked => format!("the job may go on; kjob cancel {key} tells it to stop"),
                    Stop::Told => format!("the job stops; kjob wait {key} waits for its end"),
                });
                return Ok(None);
            }
        }
    }
}

/// How far the cancel is that the first Ctrl-C asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    NotTold,
    /// The server has not answered yet.
    Asked,
    Told,
}

/// Calls until there is an answer, also over an outage of the server, such as a restart.
pub(crate) async fn patiently<T>(
    session: &Session,
    mut call: impl AsyncFnMut() -> Result<T, Error>,
) -> Result<T, Error> {
    let begin = Instant::now();
    let mut is_told = false;
    loop {
        let error = match call().await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let may_pass = error.is_connect()
            || error.is_broken()
            || error.is_timeout()
            || error.is_busy()
            || error.is_leaving();
        if !may_pass || begin.elapsed() >= OUTAGE_MAX {
            return Err(error);
        }
        if !is_told {
            session.say(&format!("{error}; trying again"));
            is_told = true;
        }
        sleep(OUTAGE_PAUSE).await;
    }
}

/// How a job goes, for people.
#[derive(Debug)]
enum Progress {
    Bar {
        bar: ProgressBar,
        /// Whether it has said anything of the job.
        is_told: bool,
    },
    Lines {
        name: String,
        phase: String,
        progress: i32,
    },
    Nothing,
}

impl Progress {
    fn new(session: &Session, key: &JobKey) -> Self {
        let name = format!("job {key}");
        if session.may_draw() {
            let target = ProgressDrawTarget::stderr();
            let bar = ProgressBar::with_draw_target(Some(100), target).with_prefix(name);
            let style = "{prefix} {msg:10} [{bar:30}] {percent:>3} % {elapsed}";
            if let Ok(style) = ProgressStyle::with_template(style) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.enable_steady_tick(Duration::from_millis(250));
            return Self::Bar {
                bar,
                is_told: false,
            };
        }
        match session.is_talkative() {
            true => Self::Lines {
                name,
                phase: String::new(),
                progress: 0,
            },
            false => Self::Nothing,
        }
    }

    fn show(&mut self, job: &Job) {
        let word = job
            .phase()
            .map_or_else(|| job.status.to_string(), str::to_owned);
        match self {
            Self::Bar { bar, is_told } => {
                bar.set_message(shown(&word).into_owned());
                bar.set_position(u64::try_from(job.progress).unwrap_or(0));
                *is_told = true;
            }
            Self::Lines {
                name,
                phase,
                progress,
            } => {
                if *phase != word || job.progress >= *progress + STEP {
                    super::session::say(&format!("{name} {} {} %", shown(&word), job.progress));
                    (*phase, *progress) = (word, job.progress);
                }
            }
            Self::Nothing => {}
        }
    }

    fn say(&self, text: &str) {
        match self {
            Self::Bar { bar, .. } => bar.suspend(|| super::session::say(text)),
            Self::Lines { .. } => super::session::say(text),
            Self::Nothing => {}
        }
    }

    /// The bar shows how the job ended. Of one that had ended before the first look there is no going to show,
    /// and lines tell nothing that what follows does not say.
    fn end(&mut self, job: &Job) {
        if let Self::Bar { is_told: true, .. } = self {
            self.show(job);
        }
    }

    /// What is drawn gives way to what is said.
    fn clear(&self) {
        if let Self::Bar { bar, .. } = self {
            bar.finish_and_clear();
        }
    }
}

/// What was drawn stays, and what comes now begins a line of its own.
impl Drop for Progress {
    fn drop(&mut self) {
        match self {
            // Drawn once more it would be in the way of what came after it.
            Self::Bar { bar, .. } if bar.is_finished() => {}
            Self::Bar { bar, is_told: true } => bar.abandon(),
            Self::Bar { .. } => self.clear(),
            Self::Lines { .. } | Self::Nothing => {}
        }
    }
}
