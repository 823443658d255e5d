//! What is read anew when the operator asks for it, by SIGHUP.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use crate::signals::Hangups;

/// Why something was not read anew. The log tells it, with its causes' texts if they are in it.
pub(crate) type ReloadError = Box<dyn Error + Send + Sync>;

type Read = Box<dyn Fn() -> Result<(), ReloadError> + Send + Sync>;

/// Things that can be read anew while the server runs, in the order in which they were added.
#[derive(Default)]
pub(crate) struct Reloads(Vec<(&'static str, Read)>);

impl Reloads {
    /// Adds one; `what` is what the log calls it. `read` runs on a thread for blocking work. It puts
    /// what it reads to use only if all of it is good: after an error, the old is to be as it was.
    pub(crate) fn add(
        &mut self,
        what: &'static str,
        read: impl Fn() -> Result<(), ReloadError> + Send + Sync + 'static,
    ) {
        self.0.push((what, Box::new(read)));
    }

    /// Reads all anew at each hangup, until the future is dropped.
    pub(crate) async fn on_hangups(self, mut hangups: Hangups) {
        let reloads = Arc::new(self);
        loop {
            hangups.next().await;
            let reloads = reloads.clone();
            if let Err(error) = tokio::task::spawn_blocking(move || reloads.run()).await {
                // It panicked, and the log has the panic; what comes next may do better.
                tracing::error!(%error, "reading anew ended early");
            }
        }
    }

    /// Reads all anew. One that fails does not hold up the others.
    fn run(&self) {
        tracing::info!("SIGHUP: reading anew");
        for (what, read) in &self.0 {
            match read() {
                Ok(()) => tracing::info!(what, "read anew"),
                Err(error) => tracing::error!(
                    what,
                    error = %error,
                    "cannot be read anew; what was in use stays in use"
                ),
            }
        }
    }
}

impl fmt::Debug for Reloads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|(what, _)| what))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn one_that_fails_does_not_hold_up_the_others() {
        let count = Arc::new(AtomicUsize::new(0));
        let mut reloads = Reloads::default();
        reloads.add("broken", || Err("it is broken".into()));
        let counted = count.clone();
        reloads.add("good", move || {
            counted.fetch_add(1, Ordering::Relaxed);
            Ok(())
        });
        reloads.run();
        reloads.run();
        assert_eq!(count.load(Ordering::Relaxed), 2);
        assert_eq!(format!("{reloads:?}"), r#"["broken", "good"]"#);
    }
}
