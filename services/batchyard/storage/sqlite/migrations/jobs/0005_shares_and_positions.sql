-- Whether a queue has a scheduling policy.
ALTER TABLE queues ADD COLUMN fair_share INTEGER NOT NULL DEFAULT 0;
-- In a queue with fair share.
ALTER TABLE jobs ADD COLUMN share_identifier TEXT;
-- When it last became RUNNABLE, in milliseconds since the epoch.
ALTER TABLE jobs ADD COLUMN runnable_at INTEGER;
