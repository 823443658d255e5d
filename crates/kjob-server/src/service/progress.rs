//! `POST /jobs/{job}/progress`: what upstreams report of the jobs that they run.

use http::{Response, StatusCode};
use hyper::body::Incoming;

use super::{Peer, Service};
use crate::body::{BodyBounds, collect};
use crate::gateway::{self, Gateway};
use crate::head::Head;
use crate::ordinary::{Extras, JobName};
use crate::refusal::Refusal;
use crate::reply::{self, ReplyBody};

impl Service {
    /// Takes what an upstream reports of a job.
    pub(super) async fn progress(
        &self,
        name: &JobName,
        extras: &Extras,
        head: &Head,
        mut body: Incoming,
        peer: &Peer,
    ) -> Response<ReplyBody> {
        let outcome: Result<_, Refusal> = async {
            head.check_post()?;
            let (id, token) = (name.id()?, extras.token()?);
            let bounds = BodyBounds {
                len_max: gateway::REPORT_LEN_MAX,
                ..self.bounds
            };
            let (report, _held) = collect(&mut body, &bounds, &self.budget).await?;
            let percent = gateway::of_body(&report).ok_or_else(|| Refusal::Member {
                name: "progress".to_owned(),
                why: "is to be a number from 0 to 100: 40, or {\"progress\": 40}".to_owned(),
            })?;
            let reports = self.gateway.get().map(Gateway::reports);
            match reports.is_some_and(|reports| reports.take(id, &token, percent)) {
                true => Ok(reply::empty(StatusCode::NO_CONTENT)),
                false => Err(Refusal::NoRun(id)),
            }
        }
        .await;
        match outcome {
            Ok(response) => response,
            Err(refusal) => {
                let refusal = self.access().refused(refusal, peer.ip).await;
                let response = head.refuse(&refusal, refusal.status());
                self.refused(&refusal, response, head, body, peer)
            }
        }
    }
}
