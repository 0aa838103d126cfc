//! The limits of the log, each with its reason.

/// The most events of one submission: a command that records more is a batch job in disguise.
pub const MAX_EVENTS_PER_SUBMISSION: usize = 100;

/// The largest encoded record, in bytes: that of a message (DESIGN §5.6).
pub const MAX_RECORD_BYTES: usize = 256 * 1024;

/// The most submissions in one group: bounds what one commit writes and what one failure fails.
pub const MAX_GROUP_SUBMISSIONS: usize = 1024;

/// The most bytes of records in one group; a group ends with the submission that passes it.
pub const MAX_GROUP_BYTES: usize = 8 * 1024 * 1024;

/// The most submissions that wait for the writer; more are refused as overload.
pub const MAX_QUEUED_SUBMISSIONS: usize = 16 * 1024;

/// The most submissions that wait until something is loaded; beyond that, nothing more is
/// taken from the queue, so that its limit goes on meaning something while a load is slow.
pub const MAX_WAITING_SUBMISSIONS: usize = 4 * MAX_GROUP_SUBMISSIONS;

/// The most events of one read: bounds the memory of a page.
pub const MAX_READ_EVENTS: usize = 500;

/// The bytes of recent records kept in memory for those who follow the log.
pub const RECENT_BYTES: usize = 8 * 1024 * 1024;

/// The recent requests that a storage recalls without waiting, at least. It is more than can be on
/// the way between the look-up of a request and its decision.
pub const RECENT_REQUESTS: u64 = 2 * MAX_QUEUED_SUBMISSIONS as u64;

/// How many events are appended before they become a run of their index on the disk: the more, the
/// fewer runs there are to compact and to look at; the fewer, the less is in memory and read at a
/// start. Requests are merged four times as often, and a quarter of this stays in memory after
/// that, which must not be less than [`RECENT_REQUESTS`].
pub const INDEX_AFTER: usize = 262_144;

/// The streams that are kept in memory as they are, by default: half a kilobyte each.
pub const CACHED_STREAMS: usize = 50_000;

/// The bytes of the streams that are kept in memory packed, by default: room for two million small
/// ones, such as accounts, of two lines of 64 bytes each. The table that finds them takes 10 to 20
/// bytes for each beside that.
pub const PACKED_STREAM_BYTES: usize = 256 * 1024 * 1024;

/// The claims whose holder is kept in memory: they are short, and many are never asked for again.
pub const CACHED_CLAIMS: usize = 65_536;

/// How many of the last records are checked when a log is opened.
pub const CHECKED_AT_OPEN: usize = 1000;
