-- The index of requests follows the log more closely than that of events: the request of every event
-- up to here is in `requests`. It is never less than `indexed`.
ALTER TABLE store ADD COLUMN requests_indexed INTEGER NOT NULL DEFAULT 0;

UPDATE store SET requests_indexed = indexed;
