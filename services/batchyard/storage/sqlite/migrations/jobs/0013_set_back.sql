-- Not 0: the store was set back to an earlier state, and may have forgotten runs that are alive. The number is that of
-- the epoch with which it was.
ALTER TABLE store ADD COLUMN set_back INTEGER NOT NULL DEFAULT 0;

-- Which run of the kernel holds commits that a power cut may lose; empty: none does.
ALTER TABLE store ADD COLUMN unsynced_boot TEXT NOT NULL DEFAULT '';
