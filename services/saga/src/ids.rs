//! Ids that are made from what they are of. That of a step is the request id of its command, the
//! same whoever sends it and however often: UUIDs of version 8 over SHA-256, in the manner of
//! RFC 9562.

use uuid::Uuid;

/// The id of the command of a step.
pub(crate) fn step(stream: &str, version: u64, index: u64) -> Uuid {
    parsed(&daybook_kernel::step_id(stream, version, index))
}

/// What the wake-up of a saga is known by in this process.
pub(crate) fn wake(stream: &str, due_time: i64) -> Uuid {
    derived("wake", &[stream, &due_time.to_string()])
}

/// What the start of a saga is known by in this process.
pub(crate) fn start(stream: &str, event_id: &str) -> Uuid {
    derived("start", &[stream, event_id])
}

fn derived(what: &str, parts: &[&str]) -> Uuid {
    parsed(&daybook_kernel::derived_id(what, parts))
}

fn parsed(id: &str) -> Uuid {
    Uuid::parse_str(id).expect("a derived id is a UUID")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_says_what_it_is_the_id_of_and_nothing_else() {
        let ids = [
            step("bank.transfer-1", 1, 0),
            step("bank.transfer-1", 1, 1),
            step("bank.transfer-1", 11, 0),
            step("bank.transfer-11", 1, 0),
            wake("bank.transfer-1", 1),
            start("bank.transfer-1", "1"),
        ];
        for (at, id) in ids.iter().enumerate() {
            assert_eq!(id.get_version_num(), 8);
            assert!(!ids[..at].contains(id), "{id} is twice");
        }
        // A new version of the program must make the ids of the one before.
        assert_eq!(ids[0].to_string(), "4bbe1bfe-5abb-83d2-a696-2055554a23b2");
    }
}
