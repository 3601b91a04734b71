-- Of an array: how many children it has.
ALTER TABLE jobs ADD COLUMN array_size INTEGER;
-- Of a child of an array: the sequence of that. The sequence of the child is the next one plus its index.
ALTER TABLE jobs ADD COLUMN parent INTEGER;

-- Queues list arrays, but not their children; names find arrays.
DROP INDEX jobs_by_queue;
CREATE INDEX jobs_by_queue ON jobs (namespace, job_queue, state, sequence) WHERE parent IS NULL;
DROP INDEX jobs_by_folded_name;
CREATE INDEX jobs_by_folded_name ON jobs (namespace, job_queue, lower(job_name), sequence) WHERE parent IS NULL;
DROP INDEX jobs_by_definition;
CREATE INDEX jobs_by_definition ON jobs (
    namespace, job_queue, substr(job_definition, instr(job_definition, '/') + 1), sequence
) WHERE parent IS NULL;
DROP INDEX jobs_by_share;
CREATE INDEX jobs_by_share ON jobs (namespace, job_queue, share_identifier, sequence)
    WHERE share_identifier IS NOT NULL AND parent IS NULL;
DROP INDEX jobs_by_creation;
CREATE INDEX jobs_by_creation ON jobs (namespace, job_queue, created_at, sequence) WHERE parent IS NULL;

-- Children are listed by their array, and those that are active found by their queue.
CREATE INDEX children_by_state ON jobs (parent, state, sequence) WHERE parent IS NOT NULL;
CREATE INDEX children_active ON jobs (namespace, job_queue, state, sequence)
    WHERE parent IS NOT NULL AND state IN (3, 4, 5);
-- Children go with their array.
DROP INDEX jobs_ended;
CREATE INDEX jobs_ended ON jobs (ended_at, sequence) WHERE ended_at IS NOT NULL AND parent IS NULL;

-- What an array knows of its children. Sets of indices are little-endian bit sets; a child that has no row is in one
-- of the first four.
CREATE TABLE arrays (
    sequence INTEGER PRIMARY KEY,
    size INTEGER NOT NULL,
    sequential INTEGER NOT NULL,
    paired INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    pending BLOB NOT NULL,
    runnable BLOB NOT NULL,
    dependency_failed BLOB NOT NULL,
    stopped BLOB NOT NULL,
    succeeded BLOB NOT NULL,
    failed BLOB NOT NULL,
    rows_runnable INTEGER NOT NULL,
    rows_starting INTEGER NOT NULL,
    rows_running INTEGER NOT NULL
);
CREATE INDEX arrays_runnable ON arrays (sequence) WHERE runnable <> x'';

-- Which arrays wait child by child for which, by sequence numbers.
CREATE TABLE pairings (
    depends_on INTEGER NOT NULL,
    dependent INTEGER NOT NULL,
    PRIMARY KEY (depends_on, dependent)
) WITHOUT ROWID;
CREATE INDEX pairings_by_dependent ON pairings (dependent);
