//! `GET /console/me` and `/console/history`: what the console asks beside what everybody may ask.

use http::{Response, StatusCode};
use kjob_proto::Text;
use serde::Serialize;

use super::{Ask, json};
use crate::console::history::Span;
use crate::refusal::Refusal;
use crate::reply::ReplyBody;

/// Whom the server takes the caller for, and what they may do.
#[derive(Serialize)]
struct Me<'a> {
    user: &'a str,
    role: &'static str,
    /// Whose accounts count: `none`, `own` or `upstream`.
    accounts: &'static str,
    may_submit: bool,
    may_cancel: bool,
    may_see_history: bool,
    /// Endpoints that can be called; prefixes end in `*`.
    endpoints: Vec<Text>,
    version: &'static str,
}

impl Ask<'_> {
    /// Answers whom the server takes the caller for.
    pub(super) fn me(&self) -> Result<Response<ReplyBody>, Refusal> {
        self.extras.query(&[])?;
        let caller = &self.by.caller;
        let role = if caller.admin { "admin" } else { "user" };
        let mut endpoints = self.by.engine.patterns();
        endpoints.sort();
        // Whoever sees a job may cancel it, and call what there is.
        let me = Me {
            user: caller.owner.as_str(),
            role,
            accounts: self.accounts,
            may_submit: true,
            may_cancel: true,
            may_see_history: caller.admin && self.metrics.is_some(),
            endpoints,
            version: env!("CARGO_PKG_VERSION"),
        };
        Ok(json(StatusCode::OK, &me))
    }

    /// Answers what happened in the last hours, to those who see all jobs.
    pub(super) fn history(&self) -> Result<Response<ReplyBody>, Refusal> {
        let query = self.extras.query(&["span"])?;
        let spans = [("hour", Span::Hour), ("day", Span::Day)];
        let span = query.options()?.word("span", &spans)?;
        let Some(metrics) = self.metrics else {
            return Err(Refusal::UnknownPath {
                path: "/console/history".to_owned(),
            });
        };
        if !self.by.caller.admin {
            return Err(Refusal::HistoryNotShown);
        }
        let span = span.unwrap_or(Span::Hour);
        let told = metrics.watched().history.told(span, &self.by.engine);
        Ok(json(StatusCode::OK, &told))
    }
}
