-- The attempts of a job that are made to end without running; NULL for nearly all jobs.
ALTER TABLE jobs ADD COLUMN faults TEXT;
