-- An append writes the log and nothing else. Where the versions of a stream are, and which requests
-- were answered, is kept in tables of their own, which follow the log (`store.indexed`).
--
-- `request` is the id (16 bytes) and the fingerprint (16 bytes) of the request whose last event
-- this is.
ALTER TABLE events RENAME TO events_with_index;

CREATE TABLE events (
    position  INTEGER PRIMARY KEY,
    stream_id INTEGER NOT NULL REFERENCES streams (id),
    version   INTEGER NOT NULL,
    leaf_hash BLOB    NOT NULL,
    record    BLOB    NOT NULL,
    request   BLOB
) STRICT;

CREATE TABLE stream_events (
    stream_id INTEGER NOT NULL,
    version   INTEGER NOT NULL,
    position  INTEGER NOT NULL,
    PRIMARY KEY (stream_id, version)
) STRICT, WITHOUT ROWID;

INSERT INTO events (position, stream_id, version, leaf_hash, record)
SELECT position, stream_id, version, leaf_hash, record FROM events_with_index ORDER BY position;

INSERT INTO stream_events (stream_id, version, position)
SELECT stream_id, version, position FROM events_with_index ORDER BY stream_id, version;

DROP TABLE events_with_index;

-- Every event up to here is in `stream_events`, and its request in `requests`.
ALTER TABLE store ADD COLUMN indexed INTEGER NOT NULL DEFAULT 0;

-- No UUIDv7 in `requests` is greater than this one.
ALTER TABLE store ADD COLUMN newest_request BLOB NOT NULL DEFAULT x'00000000000000000000000000000000';

UPDATE store SET indexed = (SELECT coalesce(max(position), 0) FROM events);

UPDATE store SET newest_request = newest.request_id
FROM (SELECT max(request_id) AS request_id FROM requests
      WHERE substr(hex(request_id), 13, 1) = '7') AS newest
WHERE newest.request_id IS NOT NULL;
