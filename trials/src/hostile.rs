//! Handlers that do what no handler should.

use std::time::Duration;

use kjob_core::Payload;
use kjob_core::engine::{HandlerError, JobContext, Registry, RouteError, RouteOptions};

/// Gives back its payload, as it should.
pub const HONEST: &str = "/honest/echo";

/// Goes on whatever it is told, though it lets go of its thread now and then.
pub const DEAF: &str = "/hostile/deaf";

/// Panics.
pub const PANIC: &str = "/hostile/panic";

/// Fails.
pub const FAIL: &str = "/hostile/fail";

/// Takes [`HOARD_LEN`] bytes of memory, says that it has by its progress, and holds them until it is
/// told to stop.
pub const HOARD: &str = "/hostile/hoard";

/// Gives a result of [`HOARD_LEN`] bytes.
pub const HUGE: &str = "/hostile/huge";

/// Sleeps for ever, and its thread with it.
pub const BLOCK: &str = "/hostile/block";

/// Keeps a processor busy for ever.
pub const SPIN: &str = "/hostile/spin";

/// How much memory the greedy ones take: 1 GiB.
pub const HOARD_LEN: usize = 1 << 30;

/// The endpoints above.
///
/// # Errors
/// None: the patterns are fixed.
pub fn registry() -> Result<Registry, RouteError> {
    let mut registry = Registry::default();
    let options = RouteOptions::default;
    registry.route(HONEST, |_, payload| async { Ok(payload) }, options())?;
    registry.route(DEAF, deaf, options())?;
    registry.route(PANIC, panic, options())?;
    registry.route(FAIL, fail, options())?;
    registry.route(HOARD, hoard, options())?;
    registry.route(HUGE, huge, options())?;
    registry.route(BLOCK, block, options())?;
    registry.route(SPIN, spin, options())?;
    Ok(registry)
}

async fn deaf(_: JobContext, _: Payload) -> Result<Payload, HandlerError> {
    loop {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[allow(clippy::panic, reason = "that is what it is for")]
async fn panic(_: JobContext, _: Payload) -> Result<Payload, HandlerError> {
    panic!("a handler that panics");
}

async fn fail(_: JobContext, _: Payload) -> Result<Payload, HandlerError> {
    Err(HandlerError::failed("a handler that fails"))
}

async fn hoard(context: JobContext, _: Payload) -> Result<Payload, HandlerError> {
    // Every byte is written, so that it is memory and not a promise of it.
    let hoard = vec![7u8; HOARD_LEN];
    context.progress(50);
    context.cancelled().await;
    drop(hoard);
    Err(HandlerError::Stopped)
}

async fn huge(_: JobContext, _: Payload) -> Result<Payload, HandlerError> {
    Ok(Payload::binary(vec![7u8; HOARD_LEN]))
}

async fn block(_: JobContext, _: Payload) -> Result<Payload, HandlerError> {
    loop {
        std::thread::park();
    }
}

async fn spin(_: JobContext, _: Payload) -> Result<Payload, HandlerError> {
    loop {
        std::hint::spin_loop();
    }
}
