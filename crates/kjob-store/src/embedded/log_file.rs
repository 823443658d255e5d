//! SQLite's write-ahead logs, read before SQLite does.
//!
//! SQLite takes the first frame of a log whose checksum is wrong for the end that a crash tore off,
//! and forgets all that is behind it. But every commit is synced before the next one begins, so
//! that a crash can only tear the last one. What is damaged before that, or by a single bit of a
//! commit that is whole otherwise, was durable once, and losing it silently would be wrong.
//!
//! The format is that of <https://www.sqlite.org/fileformat2.html#walformat>.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;
const MAGIC: u32 = 0x377f_0682;
const VERSION: u32 = 3_007_000;

const ONE_BIT_WRONG: &str = "a bit of this frame is wrong";

/// Where a log is damaged in a way that no crash explains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Damage {
    /// The first byte of the header or frame.
    pub(crate) offset: u64,
    pub(crate) how: &'static str,
}

/// Reads a log once from its start to its end; `None` if there is nothing wrong with it but,
/// perhaps, a torn end. A log that is not there is a sound one.
pub(crate) fn verify(path: &Path) -> io::Result<Option<Damage>> {
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        file => examine(BufReader::with_capacity(1 << 18, file?)),
    }
}

fn examine(mut log: impl Read) -> io::Result<Option<Damage>> {
    let mut bytes = [0; HEADER];
    if read_whole(&mut log, &mut bytes)? < HEADER {
        return Ok(None);
    }
    let header = Header::parse(&bytes);
    if header.is_none() && one_bit_away(&bytes) {
        let how = "a bit of its header is wrong";
        return Ok(Some(Damage { offset: 0, how }));
    }
    Frames::new(header).examine(log)
}

/// What the header of a log says.
#[derive(Clone, Copy, Debug)]
struct Header {
    page_size: usize,
    big_endian: bool,
    salts: [u32; 2],
    sums: [u32; 2],
}

impl Header {
    fn parse(bytes: &[u8; HEADER]) -> Option<Self> {
        let [magic, version, page_size, _, salt_1, salt_2, sum_1, sum_2] = words(bytes);
        let big_endian = magic & 1 == 1;
        let page_size = usize::try_from(page_size).ok()?;
        let right = magic & !1 == MAGIC
            && version == VERSION
            && page_size.is_power_of_two()
            && (512..=65_536).contains(&page_size);
        let sums = checksum([0, 0], bytes.get(..24)?, big_endian);
        (right && sums == [sum_1, sum_2]).then_some(Self {
            page_size,
            big_endian,
            salts: [salt_1, salt_2],
            sums,
        })
    }
}

/// Whether a header becomes right by turning over a single bit.
fn one_bit_away(bytes: &[u8; HEADER]) -> bool {
    (0..HEADER * 8).any(|bit| {
        let mut other = *bytes;
        if let Some(byte) = other.get_mut(bit / 8) {
            *byte ^= 1 << (bit % 8);
        }
        Header::parse(&other).is_some()
    })
}

/// The way through the frames of a log.
struct Frames {
    page_size: usize,
    big_endian: bool,
    salts: Option<[u32; 2]>,
    /// The checksums that the next frame may go on from: as stored in the last one, and as they
    /// should be stored there.
    sums: [[u32; 2]; 2],
    /// Where the first frame is that SQLite will not take.
    end: Option<u64>,
    /// Whether a commit was seen at or behind that place.
    commit_behind: bool,
    /// Whether the frame there is right but for one bit, and all since then are right.
    one_bit_wrong: bool,
}

impl Frames {
    fn new(header: Option<Header>) -> Self {
        let sums = header.map_or([0, 0], |header| header.sums);
        Self {
            page_size: header.map_or(4096, |header| header.page_size),
            big_endian: header.is_some_and(|header| header.big_endian),
            salts: header.map(|header| header.salts),
            sums: [sums, sums],
            end: header.is_none().then_some(0),
            // Frames are only written once their header is synced, so behind a lost header any
            // commit was durable.
            commit_behind: header.is_none(),
            one_bit_wrong: false,
        }
    }

    fn examine(mut self, mut log: impl Read) -> io::Result<Option<Damage>> {
        let mut frame = vec![0; FRAME_HEADER + self.page_size];
        let mut offset = HEADER as u64;
        while read_whole(&mut log, &mut frame)? == frame.len() {
            let how = FrameHeader::parse(&frame).and_then(|head| self.pass(head, &frame, offset));
            if let Some(how) = how {
                let offset = self.end.unwrap_or(offset);
                return Ok(Some(Damage { offset, how }));
            }
            offset += frame.len() as u64;
        }
        Ok(None)
    }

    /// Goes on to the next frame; says what is wrong with the log, by this one and those before.
    fn pass(&mut self, head: FrameHeader, frame: &[u8], offset: u64) -> Option<&'static str> {
        let [stored, right] = self.sums;
        let sums = self.sum(stored, frame);
        let goes_on = sums == head.sums || (right != stored && self.sum(right, frame) == head.sums);
        self.sums = [head.sums, sums];
        let ours = head.salts == *self.salts.get_or_insert(head.salts);
        let is_commit = ours && head.pages_after_commit != 0;
        if self.end.is_none() {
            if ours && goes_on && head.page != 0 {
                return None;
            }
            // From here on SQLite reads nothing more.
            self.end = Some(offset);
            if goes_on && head.page != 0 {
                return Some("the salt of this frame is wrong");
            }
            if let Some(pages) = self.one_bit_apart(sums, &head, frame).filter(|_| ours) {
                self.one_bit_wrong = true;
                if pages != 0 {
                    return Some(ONE_BIT_WRONG);
                }
            }
        } else {
            self.one_bit_wrong &= ours && goes_on;
            if is_commit && self.one_bit_wrong {
                return Some(ONE_BIT_WRONG);
            }
            if is_commit && goes_on && self.commit_behind {
                return Some("commits behind it are whole");
            }
        }
        self.commit_behind |= is_commit;
        None
    }

    /// If a frame's checksums are what they would be but for one bit, of what they are over (8
    /// bytes and the page) or of their own: its `pages_after_commit` with that bit right.
    ///
    /// By itself that proves nothing: where a transaction was rolled back, its frames stay until
    /// others are written over them, and a header that is torn there can be a bit away from the old
    /// one. The commit that the frame is of has to be whole.
    fn one_bit_apart(&self, computed: [u32; 2], head: &FrameHeader, frame: &[u8]) -> Option<u32> {
        let pages = head.pages_after_commit;
        let ([computed_1, computed_2], [stored_1, stored_2]) = (computed, head.sums);
        if (computed_1 ^ stored_1).count_ones() + (computed_2 ^ stored_2).count_ones() == 1 {
            return Some(pages);
        }
        let wrong = [
            computed_1.wrapping_sub(stored_1),
            computed_2.wrapping_sub(stored_2),
        ];
        // What adding 1 to the first or second word of a pair does to the sums: here of the last
        // pair, then of the one before.
        let (mut first, mut second) = ([1_u32, 1_u32], [0_u32, 1_u32]);
        let before = |[one, two]: [u32; 2]| {
            let one = one.wrapping_add(two);
            [one, two.wrapping_add(one)]
        };
        let (head, page) = frame.split_at(FRAME_HEADER.min(frame.len()));
        for pair in page.as_chunks::<8>().0.iter().rev() {
            let [one, two] = pair_of(pair, self.big_endian);
            let explained = wrong_bit(one, first, wrong).or(wrong_bit(two, second, wrong));
            if explained.is_some() {
                return Some(pages);
            }
            (first, second) = (before(first), before(second));
        }
        let [one, two] = pair_of(head.first_chunk()?, self.big_endian);
        if wrong_bit(one, first, wrong).is_some() {
            return Some(pages);
        }
        let bit = wrong_bit(two, second, wrong)?;
        let right = two ^ (1 << bit);
        Some(if self.big_endian {
            right
        } else {
            right.swap_bytes()
        })
    }

    /// The checksums of a frame that follows one with the checksums `from`.
    fn sum(&self, from: [u32; 2], frame: &[u8]) -> [u32; 2] {
        let (head, page) = frame.split_at(FRAME_HEADER.min(frame.len()));
        let head = head.get(..8).unwrap_or_default();
        checksum(checksum(from, head, self.big_endian), page, self.big_endian)
    }
}

/// What the header of a frame says.
#[derive(Clone, Copy, Debug)]
struct FrameHeader {
    page: u32,
    /// Of the frame that ends a transaction: pages of the database after it.
    pages_after_commit: u32,
    salts: [u32; 2],
    sums: [u32; 2],
}

impl FrameHeader {
    fn parse(frame: &[u8]) -> Option<Self> {
        let head: &[u8; FRAME_HEADER] = frame.first_chunk()?;
        let [page, pages_after_commit, salt_1, salt_2, sum_1, sum_2] = words(head);
        Some(Self {
            page,
            pages_after_commit,
            salts: [salt_1, salt_2],
            sums: [sum_1, sum_2],
        })
    }
}

/// The bit of a word that makes the sums right if it is turned over, where adding 1 to the word adds
/// `by_one`.
fn wrong_bit(word: u32, by_one: [u32; 2], wrong: [u32; 2]) -> Option<u32> {
    (0..32).find(|bit| {
        let by_bit = by_one.map(|sum| sum << bit);
        let is_set = word >> bit & 1 == 1;
        wrong
            == if is_set {
                by_bit
            } else {
                by_bit.map(u32::wrapping_neg)
            }
    })
}

/// SQLite's checksum of logs: two sums over pairs of words, going on from `sums`.
fn checksum(sums: [u32; 2], bytes: &[u8], big_endian: bool) -> [u32; 2] {
    let [mut one, mut two] = sums;
    for pair in bytes.as_chunks::<8>().0 {
        let [first, second] = pair_of(pair, big_endian);
        one = one.wrapping_add(first).wrapping_add(two);
        two = two.wrapping_add(second).wrapping_add(one);
    }
    [one, two]
}

/// Two words as the checksum takes them.
fn pair_of(pair: &[u8; 8], big_endian: bool) -> [u32; 2] {
    let words = words(pair);
    if big_endian {
        words
    } else {
        words.map(u32::swap_bytes)
    }
}

/// Big-endian words.
fn words<const BYTES: usize, const WORDS: usize>(bytes: &[u8; BYTES]) -> [u32; WORDS] {
    const { assert!(BYTES == WORDS * 4) }
    let mut words = [0; WORDS];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *word = u32::from_be_bytes(*bytes);
    }
    words
}

/// Fills `bytes` as far as there is something.
fn read_whole(log: &mut impl Read, bytes: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while let Some(rest) = bytes.get_mut(len..).filter(|rest| !rest.is_empty()) {
        match log.read(rest) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rusqlite::Connection;

    use super::*;

    const FRAME: usize = FRAME_HEADER + 4096;

    /// A log with commits of one and of many frames, as SQLite wrote it.
    fn log() -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.sqlite");
        let connection = Connection::open(&path).unwrap();
        let set_up = "PRAGMA journal_mode = wal; PRAGMA synchronous = full;
                      CREATE TABLE t (a); PRAGMA wal_checkpoint(TRUNCATE);";
        connection.execute_batch(set_up).unwrap();
        for size in [10, 20_000, 10, 9_000, 10] {
            let insert = "INSERT INTO t VALUES (randomblob(?1))";
            connection.execute(insert, [size]).unwrap();
        }
        fs::read(dir.path().join("x.sqlite-wal")).unwrap()
    }

    fn damage(log: &[u8]) -> Option<Damage> {
        examine(log).unwrap()
    }

    fn commits(log: &[u8]) -> Vec<usize> {
        let frames = log[HEADER..].chunks_exact(FRAME);
        let is_commit = |frame: &[u8]| FrameHeader::parse(frame).unwrap().pages_after_commit != 0;
        frames
            .enumerate()
            .filter(|(_, frame)| is_commit(frame))
            .map(|(at, _)| at)
            .collect()
    }

    #[test]
    fn a_log_that_is_cut_off_anywhere_is_a_torn_one() {
        let log = log();
        assert_eq!(commits(&log).len(), 5);
        assert_eq!(damage(&log), None);
        for len in (0..log.len()).step_by(97) {
            assert_eq!(damage(&log[..len]), None, "cut at {len}");
        }
    }

    #[test]
    fn any_single_bit_is_damage_and_named_by_its_frame() {
        let mut log = log();
        // Every bit of the headers, and some of every page.
        let frame_of = |byte: usize| byte.checked_sub(HEADER).map(|byte| byte / FRAME);
        let bits = (0..log.len() * 8).filter(|bit| {
            let byte = bit / 8;
            frame_of(byte).is_none() || (byte - HEADER) % FRAME < FRAME_HEADER || bit % 331 == 0
        });
        let mut tried = 0;
        for bit in bits.collect::<Vec<_>>() {
            log[bit / 8] ^= 1 << (bit % 8);
            let offset = frame_of(bit / 8).map_or(0, |frame| HEADER + frame * FRAME);
            match damage(&log) {
                Some(found) => assert_eq!(found.offset, offset as u64, "bit {bit}: {found:?}"),
                None => panic!("bit {bit} of {}", log.len() * 8),
            }
            log[bit / 8] ^= 1 << (bit % 8);
            tried += 1;
        }
        assert!(tried > 4_000, "{tried}");
    }

    /// A crash tore the header that was being written over a frame of a transaction that had been
    /// rolled back, in the number of its page.
    #[test]
    fn a_bit_of_a_transaction_without_its_commit_is_no_damage() {
        let mut log = log();
        let commits = commits(&log);
        let [.., before, end, _] = commits[..] else {
            panic!("{commits:?}")
        };
        log.truncate(HEADER + end * FRAME);
        let frames = before + 1..end;
        assert!(frames.len() > 1);
        for bit in
            frames.flat_map(|frame| (0..32).map(move |bit| (HEADER + frame * FRAME) * 8 + bit))
        {
            log[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(damage(&log), None, "bit {bit}");
            log[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_garbled_frame_is_damage_unless_it_is_of_the_last_commit() {
        let log = log();
        let commits = commits(&log);
        let frames = (log.len() - HEADER) / FRAME;
        let last = commits[commits.len() - 2] + 1;
        for frame in 0..frames {
            let mut garbled = log.clone();
            let at = HEADER + frame * FRAME + 1000;
            for byte in &mut garbled[at..at + 512] {
                *byte = byte.wrapping_mul(5).wrapping_add(77);
            }
            let expected = (HEADER + frame * FRAME) as u64;
            match damage(&garbled) {
                Some(found) => {
                    assert!(frame < last, "frame {frame}");
                    assert_eq!(found.offset, expected);
                }
                None => assert!(frame >= last, "frame {frame}"),
            }
        }
        // A whole frame that was never written, in the middle of the last commit or before.
        let mut zeroed = log.clone();
        zeroed[HEADER..HEADER + FRAME].fill(0);
        assert!(damage(&zeroed).is_some());
    }

    #[test]
    fn what_is_left_of_an_older_log_behind_a_new_one_is_no_damage() {
        let (old, new) = (log(), log());
        let end = HEADER + 2 * FRAME;
        let mut mixed = old.clone();
        mixed[..end].copy_from_slice(&new[..end]);
        assert_eq!(damage(&mixed), None);
        // Not even if the new one is torn.
        mixed[end - 100..end].fill(0);
        assert_eq!(damage(&mixed), None);
    }

    #[test]
    fn a_lost_header_is_damage_where_there_are_commits() {
        let mut log = log();
        log[..HEADER].fill(0);
        assert_eq!(damage(&log).map(|found| found.offset), Some(0));
        assert_eq!(damage(&log[..HEADER]), None);
        assert_eq!(damage(&[0; 20_000]), None);
    }
}
