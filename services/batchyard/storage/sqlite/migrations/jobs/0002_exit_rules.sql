-- Which failed attempts of a job are tried again, as JSON; NULL: all, while attempts are left.
ALTER TABLE jobs ADD COLUMN exit_rules TEXT;
