//! Each transfer as it is now.

use daybook_contract::bank::v1::transfer::Event;
use daybook_contract::bank::v1::{TransferState, TransferStatus};
use daybook_contract::contract::EventError;
use daybook_domain::transfer::Transfer;
use daybook_kernel::Aggregate;
use prost::Message;

use crate::amount::minor;
use crate::runtime::{ApplyError, EncodedEvent, Projection, Recorded};

/// The projection.
pub struct Transfers;

crate::rows! {
    /// The tables of the projection.
    pub struct Tables {
        /// All transfers.
        transfers: TransferRow in "transfers",
    }

    /// A transfer.
    pub struct TransferRow {
        key {
            /// Its id.
            transfer_id: String,
        }
        /// The account that the money leaves.
        from_account_id: String,
        /// The account that the money is for.
        to_account_id: String,
        /// The currency.
        currency_code: String,
        /// How much, in the smallest unit.
        amount_minor: i64,
        /// A number of `bank.v1.TransferStatus`.
        status: i64,
        /// The version of its stream.
        version: i64,
        /// The position of its first event.
        position: i64,
        /// When it ended, in nanoseconds.
        ended_time: Option<i64>,
        /// When the last event was recorded.
        updated_time: i64,
        /// The encoded `bank.v1.TransferState`.
        state: Vec<u8>,
    }
}

impl Projection for Transfers {
    const NAME: &'static str = "transfers";
    const VERSION: u32 = 3;
    const AGGREGATES: &'static [&'static str] = &["bank.transfer"];
    const SCHEMA: &'static str = "
        CREATE TABLE transfers (
            transfer_id     TEXT NOT NULL UNIQUE,
            from_account_id TEXT NOT NULL,
            to_account_id   TEXT NOT NULL,
            currency_code   TEXT NOT NULL,
            amount_minor    INTEGER NOT NULL,
            status          INTEGER NOT NULL,
            version         INTEGER NOT NULL,
            position        INTEGER NOT NULL,
            ended_time      INTEGER,
            updated_time    INTEGER NOT NULL,
            state           BLOB NOT NULL
        );
        CREATE INDEX transfers_by_status ON transfers (status, position);
        CREATE INDEX transfers_by_sender ON transfers (from_account_id, status, position);
        CREATE INDEX transfers_by_recipient ON transfers (to_account_id, status, position);";
    type Tables = Tables;
    type Event = Event;

    fn decode(event: EncodedEvent<'_>) -> Result<Event, EventError> {
        event.decode::<Transfer>()
    }

    fn want(event: &Recorded<Event>, tables: &mut Tables) {
        // Before its first event there is no transfer, so there is no row to look for.
        if event.version > 1 {
            tables.transfers.want(event.aggregate_id.clone());
        }
    }

    fn apply(event: &Recorded<Event>, tables: &mut Tables) -> Result<(), ApplyError> {
        let before = match event.version {
            1 => None,
            _ => tables.transfers.get(&event.aggregate_id)?,
        };
        let (encoded, position) = match before {
            Some(row) => (row.state.as_slice(), row.position),
            None => (&[][..], event.position_i64()),
        };
        let mut state = TransferState::decode(encoded)
            .map_err(|error| ApplyError::failed(format!("the row cannot be read: {error}")))?;
        Transfer::evolve(&mut state, &event.event);
        let currency_code =
            state.amount.as_ref().map(|amount| amount.currency_code.clone()).unwrap_or_default();
        let ended = matches!(
            state.status(),
            TransferStatus::Completed | TransferStatus::Returned | TransferStatus::Failed
        );
        tables.transfers.put(TransferRow {
            transfer_id: event.aggregate_id.clone(),
            from_account_id: state.from_account_id.clone(),
            to_account_id: state.to_account_id.clone(),
            amount_minor: minor(state.amount.as_ref(), &currency_code)?,
            currency_code,
            status: i64::from(state.status),
            version: event.version_i64(),
            position,
            ended_time: ended.then_some(event.time_ns),
            updated_time: event.time_ns,
            state: state.encode_to_vec(),
        });
        Ok(())
    }
}
