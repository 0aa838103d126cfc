//! The records of a batch: looked at once, shared by all readers, and sorted by aggregate, so that a
//! reader passes over what is not for it.

use std::sync::Arc;

use crate::envelope::{Content, Envelope};
use crate::source::Record;

/// Some records in the order in which they came. A copy shares them.
#[derive(Debug, Clone, Default)]
pub struct Records {
    pieces: Vec<Arc<Piece>>,
}

/// Records that came together.
#[derive(Debug)]
struct Piece {
    records: Vec<Arc<Record>>,
    /// The types of the aggregates that they are of.
    aggregates: Vec<String>,
    /// For each record the index of its aggregate, [`STRANGE`] or [`WATERMARK`].
    kinds: Vec<u32>,
    /// The index of the event with the highest position.
    last: Option<usize>,
}

const STRANGE: u32 = u32::MAX;
const WATERMARK: u32 = u32::MAX - 1;

impl From<Vec<Arc<Record>>> for Records {
    fn from(records: Vec<Arc<Record>>) -> Self {
        if records.is_empty() {
            return Self::default();
        }
        let mut piece = Piece {
            kinds: Vec::with_capacity(records.len()),
            aggregates: Vec::new(),
            last: None,
            records,
        };
        let mut highest = 0;
        for (index, record) in piece.records.iter().enumerate() {
            let kind = match &record.content {
                Content::Event(event) => {
                    if event.position > highest {
                        highest = event.position;
                        piece.last = Some(index);
                    }
                    kind_of(&mut piece.aggregates, event.aggregate_type())
                }
                Content::Watermark => WATERMARK,
                Content::Strange(_) => STRANGE,
            };
            piece.kinds.push(kind);
        }
        Self { pieces: vec![Arc::new(piece)] }
    }
}

/// The index of an aggregate, of which there are few.
fn kind_of(aggregates: &mut Vec<String>, aggregate_type: &str) -> u32 {
    let known = aggregates.iter().position(|known| known == aggregate_type);
    let index = known.unwrap_or_else(|| {
        aggregates.push(aggregate_type.to_owned());
        aggregates.len() - 1
    });
    u32::try_from(index).expect("there are fewer aggregates than records in a batch")
}

impl FromIterator<Record> for Records {
    fn from_iter<I: IntoIterator<Item = Record>>(records: I) -> Self {
        records.into_iter().map(Arc::new).collect::<Vec<_>>().into()
    }
}

impl Records {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.pieces.iter().map(|piece| piece.records.len()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Adds those of a later batch.
    pub fn append(&mut self, more: Self) {
        self.pieces.extend(more.pieces);
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Record>> {
        self.pieces.iter().flat_map(|piece| &piece.records)
    }

    /// The events of some aggregates, and whatever is no event.
    pub fn of(&self, aggregates: &[&str]) -> impl Iterator<Item = &Arc<Record>> {
        self.pieces.iter().flat_map(move |piece| {
            let known = piece.aggregates.iter();
            let wanted: Vec<_> = known.map(|known| aggregates.contains(&known.as_str())).collect();
            let is_wanted = move |kind| match kind {
                STRANGE => true,
                WATERMARK => false,
                kind => wanted[kind as usize],
            };
            let kinds = piece.records.iter().zip(&piece.kinds);
            kinds.filter(move |(_, kind)| is_wanted(**kind)).map(|(record, _)| record)
        })
    }

    /// The event with the highest position up to a limit.
    pub fn last_event(&self, limit: u64) -> Option<&Envelope> {
        let last = |piece: &'_ Piece| {
            let last = piece.records[piece.last?].event()?;
            if last.position <= limit {
                return piece.last;
            }
            let positions =
                piece.records.iter().map(|record| record.event().map_or(0, |e| e.position));
            let below =
                positions.enumerate().filter(|(_, position)| (1..=limit).contains(position));
            below.max_by_key(|(_, position)| *position).map(|(index, _)| index)
        };
        let of_pieces = self.pieces.iter().filter_map(|piece| piece.records[last(piece)?].event());
        of_pieces.max_by_key(|event| event.position)
    }
}

#[cfg(test)]
mod tests {
    use daybook_contract::daybook::v1::RecordedEvent;
    use daybook_contract::daybook::v1::recorded_event::Payload;
    use prost::Message;

    use super::*;
    use crate::source::Origin;

    fn event(aggregate_type: &str, position: u64) -> Record {
        let event = RecordedEvent {
            event_id: format!("event-{position}"),
            aggregate_type: aggregate_type.to_owned(),
            aggregate_id: "a-1".to_owned(),
            version: 1,
            position,
            payload: Some(Payload::Event(prost_types::Any::default())),
            ..Default::default()
        };
        Record::new(event.encode_to_vec().into(), Origin::Log)
    }

    fn watermark(position: u64) -> Record {
        let watermark = RecordedEvent { position, ..Default::default() };
        Record::new(watermark.encode_to_vec().into(), Origin::Log)
    }

    fn strange() -> Record {
        Record::new(b"(poison".as_slice().into(), Origin::Log)
    }

    fn positions<'a>(records: impl Iterator<Item = &'a Arc<Record>>) -> Vec<u64> {
        records.map(|record| record.event().map_or(0, |event| event.position)).collect()
    }

    #[test]
    fn a_reader_sees_its_own_events_and_what_is_no_event_in_order() {
        let mut records =
            Records::from_iter([event("bank", 1), event("users", 2), strange(), event("bank", 3)]);
        records.append(Records::from_iter([watermark(4), event("users", 5)]));
        records.append(Records::default());
        assert_eq!(records.len(), 6);
        assert_eq!(positions(records.iter()), [1, 2, 0, 3, 0, 5]);
        assert_eq!(positions(records.of(&["bank"])), [1, 0, 3]);
        assert_eq!(positions(records.of(&["users", "orders"])), [2, 0, 5]);
        assert_eq!(positions(records.of(&["orders"])), [0]);
        assert!(Records::default().is_empty() && Records::default().iter().next().is_none());
    }

    #[test]
    fn the_last_event_is_that_with_the_highest_position_up_to_a_limit() {
        let mut records = Records::from_iter([event("bank", 7), strange(), event("bank", 3)]);
        records.append(Records::from_iter([event("users", 5), watermark(9)]));
        let last = |limit| records.last_event(limit).map(|event| event.position);
        let found: Vec<_> = [2, 3, 4, 5, 6, 7, 100].into_iter().map(last).collect();
        assert_eq!(found, [None, Some(3), Some(3), Some(5), Some(5), Some(7), Some(7)]);
    }

    #[test]
    fn the_parts_of_an_event_are_those_of_its_record() {
        let record = event("bank.account", 7);
        let event = record.event().unwrap();
        assert_eq!(event.stream(), "bank.account-a-1");
        assert_eq!((event.aggregate_type(), event.aggregate_id()), ("bank.account", "a-1"));
        assert_eq!((event.event_id(), event.message.as_deref()), (Some("event-7"), Some(&[][..])));
        assert_eq!(strange().event(), None);
    }
}
