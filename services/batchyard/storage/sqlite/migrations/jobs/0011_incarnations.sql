-- Which one of the queues that had a name, one after the other, it is, and the sequence from which on jobs are of it.
ALTER TABLE queues ADD COLUMN created INTEGER NOT NULL DEFAULT 0;
ALTER TABLE queues ADD COLUMN first_job INTEGER NOT NULL DEFAULT 0;
