-- What is over is kept for a time, and then goes.
-- When a job came into a terminal state; it may have no other time than that of its submission.
ALTER TABLE jobs ADD COLUMN ended_at INTEGER;
UPDATE jobs SET ended_at = COALESCE(stopped_at, started_at, created_at) WHERE state IN (6, 7);
CREATE INDEX jobs_ended ON jobs (ended_at, sequence) WHERE ended_at IS NOT NULL;

-- When the lease of an agent was given up.
ALTER TABLE agents ADD COLUMN gone_at INTEGER;
UPDATE agents SET gone_at = CAST(strftime('%s', 'now') AS INTEGER) * 1000 WHERE NOT live;

-- When a commit was made; of those before this column it is not known.
ALTER TABLE events ADD COLUMN at INTEGER NOT NULL DEFAULT 0;
UPDATE events SET at = CAST(strftime('%s', 'now') AS INTEGER) * 1000;

-- The newest job that has gone, whose numbers must not come again, and the last revision whose events have gone.
ALTER TABLE store ADD COLUMN gone_sequence INTEGER NOT NULL DEFAULT 0;
ALTER TABLE store ADD COLUMN gone_job_id TEXT NOT NULL DEFAULT '';
ALTER TABLE store ADD COLUMN gone_events INTEGER NOT NULL DEFAULT 0;
