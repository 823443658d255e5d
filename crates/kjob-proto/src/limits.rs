//! What a decoder may be made to take.

/// Bounds of a decode. Every decode takes them; no decode allocates before it has checked them.
///
/// ```
/// use kjob_proto::Limits;
///
/// let limits = Limits::default().with_max_body(1 << 20).with_max_decompressed(4 << 20);
/// assert_eq!(limits.max_body, 1 << 20);
/// ```
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of a body as it was received, so compressed if it is snappy. Default 64 MiB: the payloads
    /// that the protocol is used for (inserts of some thousand rows) are two orders smaller, and a body
    /// of this size still fits many times into a small server's memory.
    pub max_body: usize,
    /// Bytes that a snappy block may unfold to. Default 64 MiB, as for `max_body`, so that compressing
    /// gives a sender no more of our memory than sending plainly does.
    pub max_decompressed: usize,
    /// Bytes of any one string that is no payload: endpoint, tag, map key, map value, message. Default
    /// 1 MiB: the longest known are texts of queries and of errors. The payload fields (`data`, `data_str`,
    /// `job_response`, `job_response_str`) are bounded by the body's limits alone.
    pub max_string: usize,
    /// Entries of any one map and items of any one array. Default 65 536: an entry takes 64 bytes of memory
    /// but may take only two on the wire, so this bounds a map at 4 MiB whatever the body's size.
    pub max_map_entries: usize,
    /// Levels of nesting of JSON text, and of values of a run-time schema; the outermost object is level 1.
    /// Default 32: the records here need two. JSON deeper than 127 levels is refused at any setting.
    pub max_depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_body: 64 << 20,
            max_decompressed: 64 << 20,
            max_string: 1 << 20,
            max_map_entries: 1 << 16,
            max_depth: 32,
        }
    }
}

impl Limits {
    /// Sets [`Limits::max_body`], in bytes.
    #[must_use]
    pub const fn with_max_body(mut self, bytes: usize) -> Self {
        self.max_body = bytes;
        self
    }

    /// Sets [`Limits::max_decompressed`], in bytes.
    #[must_use]
    pub const fn with_max_decompressed(mut self, bytes: usize) -> Self {
        self.max_decompressed = bytes;
        self
    }

    /// Sets [`Limits::max_string`], in bytes.
    #[must_use]
    pub const fn with_max_string(mut self, bytes: usize) -> Self {
        self.max_string = bytes;
        self
    }

    /// Sets [`Limits::max_map_entries`].
    #[must_use]
    pub const fn with_max_map_entries(mut self, entries: usize) -> Self {
        self.max_map_entries = entries;
        self
    }

    /// Sets [`Limits::max_depth`], in levels.
    #[must_use]
    pub const fn with_max_depth(mut self, levels: usize) -> Self {
        self.max_depth = levels;
        self
    }
}
