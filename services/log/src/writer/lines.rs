//! Pieces of bytes in one mapping, each in a chain of lines.
//!
//! A line is what most processors read at once. It begins with a link: the number of the next line
//! of the piece, and two marks that only the first line of a piece has. The first line has a head
//! more: the length of the piece, and a note.

use memmap2::{MmapMut, MmapOptions};
use tracing::warn;

/// The bytes of a line.
pub(super) const LINE: usize = 64;

/// In a link: whether a piece begins here.
const FIRST: u32 = 1 << 31;

/// In a link: whether the piece was not met since it was written ([`Lines::meet`]).
const UNMET: u32 = 1 << 30;

/// The rest of a link: the number of the next line.
const NUMBER: u32 = UNMET - 1;

/// The number of a line that is none. There are fewer lines, which is 64 GiB.
const NONE: u32 = NUMBER;

/// The bytes of a link. The content of a line that is not the first follows.
const LINK: usize = 4;

/// Where the length, the note and the content are in a first line.
const LENGTH_AT: usize = LINK;
const NOTE_AT: usize = LENGTH_AT + 4;
const HEAD: usize = NOTE_AT + 2;

/// So many lines, of which some are free.
pub(super) struct Lines {
    /// As much as there may be; what was never written takes no memory.
    memory: Option<MmapMut>,
    count: u32,
    /// Lines from here on were never used.
    used: u32,
    /// The first of a chain of lines that are free again, the one that was freed last.
    free: u32,
    free_count: u32,
}

impl Lines {
    /// With room for so many bytes.
    pub fn new(most_bytes: usize) -> Self {
        let count = (most_bytes / LINE).min(NONE as usize);
        let memory = (count > 0).then(|| map(count * LINE)).flatten();
        let count = if memory.is_some() { count as u32 } else { 0 };
        Self { memory, count, used: 0, free: NONE, free_count: 0 }
    }

    /// How many lines there are.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// How many lines were ever used: those with smaller numbers.
    pub fn used(&self) -> u32 {
        self.used
    }

    /// How many lines are free.
    pub fn room(&self) -> u32 {
        self.free_count + self.count - self.used
    }

    /// How many lines a piece of so many bytes takes.
    pub fn needed(bytes: usize) -> usize {
        1 + bytes.saturating_sub(LINE - HEAD).div_ceil(LINE - LINK)
    }

    /// Writes a piece, with a note, and says what its first line is; `None` when it has no room.
    pub fn write(&mut self, piece: &[u8], note: u16) -> Option<u32> {
        let length = u32::try_from(piece.len()).ok()?;
        if Self::needed(piece.len()) > self.room() as usize {
            return None;
        }
        let (head, rest) = piece.split_at(piece.len().min(LINE - HEAD));
        let first = self.next_free();
        let mut link = FIRST | UNMET;
        let mut at = first;
        let (mut part, mut begin) = (head, HEAD);
        let mut rest = rest.chunks(LINE - LINK);
        loop {
            let following = rest.next();
            let next = if following.is_some() { self.next_free() } else { NONE };
            let line = self.line_mut(at);
            set_link(line, link | next);
            if at == first {
                line[LENGTH_AT..NOTE_AT].copy_from_slice(&length.to_le_bytes());
                line[NOTE_AT..HEAD].copy_from_slice(&note.to_le_bytes());
            }
            line[begin..begin + part.len()].copy_from_slice(part);
            let Some(following) = following else { return Some(first) };
            (part, begin, link, at) = (following, LINK, 0, next);
        }
    }

    /// Reads the piece that begins at a line, and its note.
    pub fn read(&self, first: u32, piece: &mut Vec<u8>) -> u16 {
        let line = self.line(first);
        let length = u32::from_le_bytes(field(line, LENGTH_AT)) as usize;
        let note = u16::from_le_bytes(field(line, NOTE_AT));
        piece.clear();
        piece.extend_from_slice(&line[HEAD..]);
        let mut next = self.next(first);
        while next != NONE {
            piece.extend_from_slice(&self.line(next)[LINK..]);
            next = self.next(next);
        }
        piece.truncate(length);
        note
    }

    /// Frees the lines of a piece; they are used next.
    pub fn free(&mut self, first: u32) {
        let mut line = first;
        loop {
            let next = self.next(line);
            let link = if next == NONE { self.free } else { next };
            set_link(self.line_mut(line), link);
            self.free_count += 1;
            if next == NONE {
                break;
            }
            line = next;
        }
        self.free = first;
    }

    /// Whether a piece begins at a line that was met before; it has been met afterwards.
    pub fn meet(&mut self, line: u32) -> bool {
        let line = self.line_mut(line);
        let link = link_of(line);
        if link & UNMET != 0 {
            set_link(line, link & !UNMET);
        }
        link & (FIRST | UNMET) == FIRST
    }

    /// Takes a free line, of which there is one.
    fn next_free(&mut self) -> u32 {
        if self.free == NONE {
            self.used += 1;
            return self.used - 1;
        }
        let line = self.free;
        self.free = self.next(line);
        self.free_count -= 1;
        line
    }

    fn next(&self, line: u32) -> u32 {
        link_of(self.line(line)) & NUMBER
    }

    fn line(&self, line: u32) -> &[u8; LINE] {
        let memory = self.memory.as_deref().unwrap_or_default();
        &memory.as_chunks().0[line as usize]
    }

    fn line_mut(&mut self, line: u32) -> &mut [u8; LINE] {
        let memory = self.memory.as_deref_mut().unwrap_or_default();
        &mut memory.as_chunks_mut().0[line as usize]
    }
}

fn link_of(line: &[u8; LINE]) -> u32 {
    u32::from_le_bytes(field(line, 0))
}

fn set_link(line: &mut [u8; LINE], link: u32) {
    line[..LINK].copy_from_slice(&link.to_le_bytes());
}

fn field<const N: usize>(line: &[u8; LINE], at: usize) -> [u8; N] {
    *line[at..].first_chunk().expect("a field is within its line")
}

/// A mapping of so many bytes, in large pages where the system has some: lines are read in no
/// order.
fn map(bytes: usize) -> Option<MmapMut> {
    let memory = MmapOptions::new().len(bytes).no_reserve_swap().map_anon();
    let memory = memory
        .inspect_err(
            |error| warn!(%error, bytes, "streams are not kept packed: no memory for them"),
        )
        .ok()?;
    #[cfg(target_os = "linux")]
    if let Err(error) = memory.advise(memmap2::Advice::HugePage) {
        tracing::debug!(%error, "packed streams are in small pages");
    }
    Some(memory)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(lines: &Lines, first: u32) -> (Vec<u8>, u16) {
        let mut piece = b"what was read before".to_vec();
        let note = lines.read(first, &mut piece);
        (piece, note)
    }

    proptest! {
        /// Each step writes a piece of a length, or frees the piece with a number if there is one.
        #[test]
        fn pieces_stay_as_they_were_written_and_lines_are_used_again(
            steps in prop::collection::vec((0..400_usize, prop::option::of(0..50_usize)), 1..200),
        ) {
            let mut lines = Lines::new(100 * LINE);
            let mut pieces: Vec<(u32, Vec<u8>, u16)> = Vec::new();
            for (step, (length, freed)) in (0..).zip(steps) {
                if let Some(at) = freed.filter(|at| *at < pieces.len()) {
                    lines.free(pieces.swap_remove(at).0);
                } else {
                    let (piece, has_room) = (vec![step as u8; length], lines.room() as usize >= Lines::needed(length));
                    let first = lines.write(&piece, step);
                    prop_assert_eq!(first.is_some(), has_room);
                    pieces.extend(first.map(|first| (first, piece, step)));
                }
                for (first, piece, note) in &pieces {
                    prop_assert_eq!(&read(&lines, *first), &(piece.clone(), *note));
                }
                let taken: usize = pieces.iter().map(|(_, piece, _)| Lines::needed(piece.len())).sum();
                prop_assert_eq!(lines.room() as usize, 100 - taken);
            }
        }
    }

    #[test]
    fn a_piece_is_met_once_before_it_is_known_and_only_where_it_begins() {
        let mut lines = Lines::new(100 * LINE);
        let [one, other] = [200, 20].map(|length| lines.write(&vec![1; length], 7).unwrap());
        for (round, known) in [(1, vec![]), (2, vec![one, other]), (3, vec![one, other])] {
            let met: Vec<_> = (0..lines.used()).filter(|line| lines.meet(*line)).collect();
            assert_eq!(met, known, "in round {round}");
        }
        assert_eq!(read(&lines, one), (vec![1; 200], 7));
        lines.free(one);
        assert_eq!(lines.write(&[2; 20], 8), Some(one));
        assert!(!lines.meet(one) && lines.meet(one));
        assert!(!(0..lines.used()).any(|line| line != one && line != other && lines.meet(line)));
    }

    #[test]
    fn without_room_nothing_is_written() {
        let mut lines = Lines::new(LINE - 1);
        assert_eq!((lines.count(), lines.room(), lines.write(&[], 0)), (0, 0, None));
    }
}
