-- Who holds what must be unique: `key` of `scope` belongs to one stream.
CREATE TABLE claims (
    scope     TEXT    NOT NULL,
    key       TEXT    NOT NULL,
    stream_id INTEGER NOT NULL REFERENCES streams (id),
    PRIMARY KEY (scope, key)
) STRICT, WITHOUT ROWID;
