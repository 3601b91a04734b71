-- Every resource after its last change; of a deleted one, its tombstone. A change moves the row to a new revision.
CREATE TABLE resource (
    revision INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    namespace TEXT NOT NULL,
    name TEXT NOT NULL,
    -- The revision of a job definition; 0 for other kinds.
    number INTEGER NOT NULL,
    status TEXT NOT NULL,
    -- Milliseconds since the epoch; for people, it decides nothing.
    changed_at INTEGER NOT NULL,
    -- A serialized message of batchyard.api.registry.v1.
    body BLOB NOT NULL,
    -- The body to go back to, while it is not decided whether the last change holds.
    before BLOB
) STRICT;

CREATE UNIQUE INDEX resource_by_name ON resource (kind, namespace, name, number DESC);

CREATE INDEX resource_undecided ON resource (revision) WHERE before IS NOT NULL;

-- Which compute environments a job queue holds on to.
CREATE TABLE queue_environment (
    namespace TEXT NOT NULL,
    compute_environment TEXT NOT NULL,
    job_queue TEXT NOT NULL,
    PRIMARY KEY (namespace, compute_environment, job_queue)
) STRICT, WITHOUT ROWID;

CREATE INDEX queue_environment_by_queue ON queue_environment (namespace, job_queue);

-- The last revision of each job definition's name. It outlives the revisions.
CREATE TABLE job_definition_number (
    namespace TEXT NOT NULL,
    name TEXT NOT NULL,
    number INTEGER NOT NULL,
    PRIMARY KEY (namespace, name)
) STRICT, WITHOUT ROWID;

-- The last revision that was given out, in one row.
CREATE TABLE revision_counter (
    revision INTEGER NOT NULL
) STRICT;

INSERT INTO revision_counter VALUES (0);
