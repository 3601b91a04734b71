-- Within a share of a queue higher ones go first.
ALTER TABLE jobs ADD COLUMN scheduling_priority INTEGER NOT NULL DEFAULT 0;
-- Seconds after which an attempt is ended; NULL: none, or a job from before this column.
ALTER TABLE jobs ADD COLUMN timeout_s INTEGER;

-- What the shares of queues with fair share have used of late, as the scheduler counts it.
CREATE TABLE share_uses (
    namespace TEXT NOT NULL,
    job_queue TEXT NOT NULL,
    share_identifier TEXT NOT NULL,
    used_vcpu_seconds REAL NOT NULL,
    -- When that was so, in milliseconds since the epoch.
    at INTEGER NOT NULL,
    PRIMARY KEY (namespace, job_queue, share_identifier)
) WITHOUT ROWID;
