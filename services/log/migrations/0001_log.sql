-- What this store is. One row.
CREATE TABLE store (
    only_row     INTEGER PRIMARY KEY CHECK (only_row = 1),
    store_id     TEXT    NOT NULL,
    created_time INTEGER NOT NULL, -- microseconds since 1970
    published    INTEGER NOT NULL DEFAULT 0
) STRICT;

-- A small number for each stream, so that the index of the events stays narrow.
CREATE TABLE streams (
    id   INTEGER PRIMARY KEY,
    name TEXT    NOT NULL UNIQUE
) STRICT;

-- The log. `record` is the encoded RecordedEvent, `leaf_hash` its RFC 6962 leaf hash.
CREATE TABLE events (
    position  INTEGER PRIMARY KEY,
    stream_id INTEGER NOT NULL REFERENCES streams (id),
    version   INTEGER NOT NULL,
    leaf_hash BLOB    NOT NULL,
    record    BLOB    NOT NULL,
    UNIQUE (stream_id, version)
) STRICT;

-- The answers to requests that carried an id. `position` is that of the last event that the
-- request recorded; every other answer is kept as it was given.
CREATE TABLE requests (
    request_id  BLOB NOT NULL PRIMARY KEY,
    fingerprint BLOB NOT NULL,
    position    INTEGER,
    answer      BLOB,
    CHECK ((position IS NULL) <> (answer IS NULL))
) STRICT, WITHOUT ROWID;
