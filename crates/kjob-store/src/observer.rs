//! What stores tell whoever counts their commits.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Is told of each commit, by the one who writes: to be quick, and to ask nothing of the store.
pub trait CommitObserver: fmt::Debug + Send + Sync + 'static {
    /// So many steps were made durable by one commit (of one segment, where there are any), or were not; the
    /// commit alone took this long. With a database, that is the statement and its commit, the way there and
    /// back, and all tries.
    fn committed(&self, steps: usize, took: Duration, is_done: bool);
}

/// Who is told of commits, if anybody is.
///
/// ```
/// use kjob_store::{CommitObserver, Observed};
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicUsize, Ordering};
/// use std::time::Duration;
///
/// #[derive(Debug, Default)]
/// struct Steps(AtomicUsize);
///
/// impl CommitObserver for Steps {
///     fn committed(&self, steps: usize, _: Duration, _: bool) {
///         self.0.fetch_add(steps, Ordering::Relaxed);
///     }
/// }
///
/// let observer = Observed::by(Arc::new(Steps::default()));
/// # #[cfg(feature = "embedded")]
/// let options = kjob_store::embedded::EmbeddedOptions { observer, ..Default::default() };
/// ```
#[derive(Clone, Debug, Default)]
pub struct Observed(Option<Arc<dyn CommitObserver>>);

impl Observed {
    /// This one is told.
    pub fn by(observer: Arc<dyn CommitObserver>) -> Self {
        Self(Some(observer))
    }

    pub(crate) fn committed(&self, steps: usize, took: Duration, is_done: bool) {
        if let Self(Some(observer)) = self {
            observer.committed(steps, took, is_done);
        }
    }
}

/// The same one, or nobody.
impl PartialEq for Observed {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        }
    }
}

impl Eq for Observed {}
