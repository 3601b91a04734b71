-- Filters of listings: names in any case, definitions as name:revision, shares, and all by creation.
CREATE INDEX jobs_by_folded_name ON jobs (namespace, job_queue, lower(job_name), sequence);
DROP INDEX jobs_by_name;
CREATE INDEX jobs_by_definition ON jobs (
    namespace, job_queue, substr(job_definition, instr(job_definition, '/') + 1), sequence
);
CREATE INDEX jobs_by_share ON jobs (namespace, job_queue, share_identifier, sequence) WHERE share_identifier IS NOT NULL;
CREATE INDEX jobs_by_creation ON jobs (namespace, job_queue, created_at, sequence);

-- Whether a queue's compute environments are for FARGATE only.
ALTER TABLE queues ADD COLUMN fargate INTEGER NOT NULL DEFAULT 0;
