//! A measure of the machine: what honest clients feel of busy processors alone.

use super::Field;

/// Keeps two processors busy without touching the server.
pub(super) async fn spin(field: Field) {
    let burn = |field: Field, _| async move {
        // On threads for blocking work: a task that never waits would hold up the runtime's timers.
        let burnt = tokio::task::spawn_blocking(move || {
            let mut x = 1_u64;
            let mut rounds = 0;
            while !field.is_over() {
                for _ in 0..100_000 {
                    x = std::hint::black_box(x.wrapping_mul(6_364_136_223_846_793_005) + 1);
                }
                rounds += 1;
            }
            field.tally.sent(rounds, 0);
        });
        let _ = burnt.await;
    };
    field.at_once(2, burn).await;
}
