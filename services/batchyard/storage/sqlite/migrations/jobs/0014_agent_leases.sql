-- The longest lease that an agent may have got in its incarnation, in milliseconds; 0: that of a scheduler's default.
ALTER TABLE agents ADD COLUMN lease_ms INTEGER NOT NULL DEFAULT 0;
