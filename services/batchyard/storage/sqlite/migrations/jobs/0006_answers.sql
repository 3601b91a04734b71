-- What requests were answered, for those that are sent again.
CREATE TABLE answers (
    number INTEGER PRIMARY KEY,
    key BLOB NOT NULL,
    answer BLOB NOT NULL,
    -- Milliseconds since the epoch.
    at INTEGER NOT NULL
);
CREATE UNIQUE INDEX answers_by_key ON answers (key);
