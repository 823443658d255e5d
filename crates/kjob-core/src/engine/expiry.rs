//! Giving back the space of jobs that have expired, beside all other work.

use std::sync::Arc;
use std::time::Duration;

use super::Inner;

/// How many times as long as a piece of work took, to rest before the next: on a small machine one takes a processor
/// that jobs want.
const RESTS: u32 = 2;

/// The longest rest between two pieces of work. The clock may have been set in between, or a store been away.
const REST_MAX: Duration = Duration::from_secs(1);

/// Gives it back now and then, for ever. Between two pieces of work it rests, so that most of what it could take is
/// left to jobs; it does not where submits are refused for want of the space.
pub(super) async fn expire(inner: Arc<Inner>) {
    loop {
        inner.clock.sleep(inner.config.expire_interval).await;
        loop {
            let begun = inner.now();
            match inner.step(inner.store.expire(begun)).await {
                Ok(expired) => {
                    if expired.jobs > 0 {
                        if let Some(observer) = &inner.config.observer {
                            observer.expired(&expired);
                        }
                        tracing::info!(jobs = expired.jobs, bytes = expired.bytes, "jobs expired");
                    }
                    if !expired.more {
                        break;
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "expired jobs cannot be deleted");
                    break;
                }
            }
            if !inner.budget.was_short() {
                let took = inner.now().since(begun);
                inner.clock.sleep((took * RESTS).min(REST_MAX)).await;
            }
        }
    }
}
