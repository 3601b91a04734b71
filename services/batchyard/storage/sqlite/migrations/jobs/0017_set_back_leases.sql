-- The longest lease, in milliseconds, that an agent may have had before the store was set back, as who restored it says;
-- 0: none longer than those that the store knows of.
ALTER TABLE store ADD COLUMN set_back_lease_ms INTEGER NOT NULL DEFAULT 0;
