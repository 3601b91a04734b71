-- The revision at which a resource came to be: of two with one name, one after the other, it tells which. Of those from
-- before this column it is not known.
ALTER TABLE resource ADD COLUMN created INTEGER NOT NULL DEFAULT 0;
