//! A job that has not ended, as far as its next steps need it.

use kjob_core::{
    Event, Header, JobId, Lease, NewJob, Owner, Phase, Priority, State, Timestamp, Transition,
    apply,
};
use kjob_proto::Text;

use super::state_row;
use super::totals::Totals;
use crate::values::millis;

/// A live job in memory, with what its end will need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Live {
    pub(crate) owner: Owner,
    pub(crate) endpoint: Text,
    pub(crate) priority: Priority,
    /// How long it is kept once it has ended, in milliseconds.
    pub(crate) retention_ms: i64,
    pub(crate) moment: Moment,
    pub(crate) attempt: u32,
    pub(crate) lease: Lease,
    pub(crate) phase: Phase,
    pub(crate) progress: u8,
    /// Whether the segment has a row of its state: not for one that is as it was submitted.
    pub(crate) has_row: bool,
    /// Whether somebody is to be told of its end.
    pub(crate) has_callback: bool,
}

/// The one moment that a live state has: a queued job was not started, a started one waits for
/// nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    None,
    NotBefore(Timestamp),
    StartedAt(Timestamp),
}

impl Live {
    pub(crate) fn of(header: &Header, state: &State, has_row: bool) -> Self {
        let options = &header.options;
        Self {
            owner: header.owner.clone(),
            endpoint: header.endpoint.clone(),
            priority: options.priority,
            retention_ms: millis(options.retention),
            moment: Moment::of(state),
            attempt: state.attempt,
            lease: state.lease,
            phase: state.phase,
            progress: state.progress,
            has_row,
            has_callback: options.callback_url.is_some(),
        }
    }

    /// The same job in another state, of which the segment has a row.
    pub(crate) fn moved_to(self, state: &State) -> Self {
        Self {
            moment: Moment::of(state),
            attempt: state.attempt,
            lease: state.lease,
            phase: state.phase,
            progress: state.progress,
            has_row: true,
            ..self
        }
    }

    pub(crate) fn state(&self) -> State {
        State {
            phase: self.phase,
            progress: self.progress,
            attempt: self.attempt,
            lease: self.lease,
            not_before: match self.moment {
                Moment::NotBefore(at) => Some(at),
                _ => None,
            },
            started_at: match self.moment {
                Moment::StartedAt(at) => Some(at),
                _ => None,
            },
            ended_at: None,
        }
    }

    /// Whether it has begun.
    pub(crate) fn is_started(&self) -> bool {
        matches!(self.moment, Moment::StartedAt(_))
    }

    /// Takes the row of this state, if there is one, out of the totals.
    pub(crate) fn take_row(&self, id: JobId, totals: &mut Totals) {
        if self.has_row {
            let crc = state_row::state_checksum(id, &self.state());
            totals.states.remove(id.get(), crc);
        }
    }

    /// When the job expires if it ends at `at`.
    pub(crate) fn expiry(&self, at: Timestamp) -> Timestamp {
        Timestamp::from_millis(at.as_millis().saturating_add(self.retention_ms))
    }
}

impl Moment {
    fn of(state: &State) -> Self {
        match (state.started_at, state.not_before) {
            (Some(at), _) => Self::StartedAt(at),
            (None, Some(at)) => Self::NotBefore(at),
            (None, None) => Self::None,
        }
    }
}

/// The state in which a job is stored: started if that was asked for and its time has come.
pub(crate) fn first_state(header: &Header, start: bool) -> State {
    let queued = State::queued(header.options.not_before);
    if !start {
        return queued;
    }
    match apply(&queued, Event::Start, header.received_at) {
        Ok(Transition::To(started)) => started,
        _ => queued,
    }
}

/// The submitted job with its short texts in memory of their own, so that keeping them does not
/// keep the whole received body.
pub(crate) fn detached(job: &NewJob) -> Header {
    let mut header = job.header.clone();
    for text in [
        &mut header.endpoint,
        &mut header.source_ip,
        &mut header.options.user_data,
    ] {
        *text = kjob_proto::Text::copy_from(text);
    }
    if let Some(url) = &mut header.options.callback_url {
        *url = kjob_proto::Text::copy_from(url);
    }
    header
}

#[cfg(test)]
mod tests {
    use kjob_core::{End, OnInterrupt};

    use super::super::store::tests::job;
    use super::*;

    #[test]
    fn every_live_state_comes_back() {
        let at = Timestamp::from_millis(5);
        let then = Timestamp::from_millis(9);
        let step = |state: &State, event| match apply(state, event, at) {
            Ok(Transition::To(state)) => state,
            other => panic!("{other:?}"),
        };
        let queued = State::queued(None);
        let delayed = State::queued(Some(then));
        let running = step(&queued, Event::Start);
        let lease = running.lease;
        let advanced = step(&running, Event::Progress { lease, percent: 40 });
        let cancelling = step(&advanced, Event::RequestCancel);
        let retry = OnInterrupt::Retry {
            max_attempts: 3,
            not_before: then,
            charged: true,
        };
        let again = step(
            &advanced,
            Event::End {
                lease,
                end: End::Interrupt(retry),
            },
        );
        for state in [queued, delayed, running, advanced, cancelling, again] {
            let job = job(JobId::FIRST, "tag", bytes::Bytes::new());
            let live = Live::of(&job.header, &queued, false);
            assert_eq!(live.moved_to(&state).state(), state);
        }
    }
}
