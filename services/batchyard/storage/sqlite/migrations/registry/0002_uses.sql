-- What a job queue holds on to, and what must not go while it does: its compute environments and its scheduling policy.
CREATE TABLE queue_use (
    namespace TEXT NOT NULL,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    job_queue TEXT NOT NULL,
    PRIMARY KEY (namespace, kind, name, job_queue)
) STRICT, WITHOUT ROWID;

CREATE INDEX queue_use_by_queue ON queue_use (namespace, job_queue);

INSERT INTO queue_use
SELECT namespace, 'compute-environment', compute_environment, job_queue FROM queue_environment;

DROP TABLE queue_environment;
