-- Where the versions of a stream are stands in sorted runs instead of a tree. A run has the places of
-- all events between two positions; the runs together have those of 1 to `store.indexed`, each once.
CREATE TABLE runs (
    run            INTEGER PRIMARY KEY,
    first_position INTEGER NOT NULL,
    last_position  INTEGER NOT NULL
) STRICT;

-- Runs that are made of those between their positions, which they will replace, and how many places they
-- have so far: a process that begins goes on with them.
CREATE TABLE compactions (
    run            INTEGER PRIMARY KEY,
    first_position INTEGER NOT NULL,
    last_position  INTEGER NOT NULL,
    written        INTEGER NOT NULL
) STRICT;

-- The places of a run in order of (stream_id, version), many in a row: `stream_id` and `version` are
-- those of the first, `places` is all of them, encoded. Rows of a run that is in neither table belong to
-- one that comes from memory, or are left over.
CREATE TABLE run_chunks (
    chunk     INTEGER PRIMARY KEY,
    run       INTEGER NOT NULL,
    stream_id INTEGER NOT NULL,
    version   INTEGER NOT NULL,
    places    BLOB    NOT NULL,
    UNIQUE (run, stream_id, version)
) STRICT;

-- What is in `stream_events` becomes the first run when the store is opened, after which that table is
-- no more (services/log/src/sqlite/convert.rs): SQL cannot encode it.
