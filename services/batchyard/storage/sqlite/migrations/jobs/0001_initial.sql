-- One row: where the store's numbers stand.
CREATE TABLE store (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    epoch INTEGER NOT NULL,
    leader_epoch INTEGER NOT NULL,
    leader_id TEXT NOT NULL,
    revision INTEGER NOT NULL
);
INSERT INTO store VALUES (1, 0, 0, '', 0);

-- What changes about a job. Times are milliseconds since the epoch; states as in the protos.
CREATE TABLE jobs (
    sequence INTEGER PRIMARY KEY,
    namespace TEXT NOT NULL,
    job_id TEXT NOT NULL,
    job_name TEXT NOT NULL,
    job_queue TEXT NOT NULL,
    job_definition TEXT NOT NULL,
    vcpus_milli INTEGER NOT NULL,
    memory_mib INTEGER NOT NULL,
    gpus INTEGER NOT NULL,
    attempts_allowed INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    state INTEGER NOT NULL,
    version INTEGER NOT NULL,
    status_reason TEXT,
    dependencies_left INTEGER NOT NULL,
    attempts_made INTEGER NOT NULL,
    stop_reason TEXT,
    cancelled INTEGER NOT NULL,
    terminated INTEGER NOT NULL,
    started_at INTEGER,
    stopped_at INTEGER,
    exit_code INTEGER,
    reason TEXT,
    agent_id TEXT,
    task_id TEXT,
    log_stream_name TEXT,
    -- The run that is not over; all NULL without one.
    run_epoch INTEGER,
    run_number INTEGER,
    run_agent_id TEXT,
    run_incarnation INTEGER,
    run_compute_environment TEXT,
    run_state INTEGER,
    run_task_id TEXT,
    run_log_stream_name TEXT
);
CREATE UNIQUE INDEX jobs_by_id ON jobs (namespace, job_id);
CREATE INDEX jobs_by_queue ON jobs (namespace, job_queue, state, sequence);
CREATE INDEX jobs_by_name ON jobs (namespace, job_name, sequence);
-- RUNNABLE, STARTING, RUNNING: what a scheduler has to know.
CREATE INDEX jobs_active ON jobs (sequence) WHERE state IN (3, 4, 5);
CREATE INDEX jobs_by_agent ON jobs (run_agent_id) WHERE run_agent_id IS NOT NULL;

-- What was submitted: written once, never changed.
CREATE TABLE specs (
    sequence INTEGER PRIMARY KEY,
    spec BLOB NOT NULL
);

CREATE TABLE attempts (
    sequence INTEGER NOT NULL,
    number INTEGER NOT NULL,
    agent_id TEXT NOT NULL,
    task_id TEXT NOT NULL,
    log_stream_name TEXT,
    status_reason TEXT NOT NULL,
    started_at INTEGER,
    stopped_at INTEGER NOT NULL,
    exit_code INTEGER,
    reason TEXT,
    PRIMARY KEY (sequence, number)
) WITHOUT ROWID;

-- Who waits for whom, by sequence numbers.
CREATE TABLE dependencies (
    depends_on INTEGER NOT NULL,
    dependent INTEGER NOT NULL,
    PRIMARY KEY (depends_on, dependent)
) WITHOUT ROWID;

-- The store's copy of the registry's job queues.
CREATE TABLE queues (
    namespace TEXT NOT NULL,
    name TEXT NOT NULL,
    arn TEXT NOT NULL,
    open INTEGER NOT NULL,
    gone INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    PRIMARY KEY (namespace, name)
) WITHOUT ROWID;

CREATE TABLE agents (
    agent_id TEXT PRIMARY KEY,
    incarnation INTEGER NOT NULL,
    live INTEGER NOT NULL
) WITHOUT ROWID;

-- One record a commit: the changes of jobs that it made, as a MessagePack list.
CREATE TABLE events (
    revision INTEGER PRIMARY KEY,
    record BLOB NOT NULL
);
