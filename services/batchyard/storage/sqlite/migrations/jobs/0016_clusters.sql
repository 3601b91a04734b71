-- The ECS clusters that compute environments are said to have, by the registry's revision at which the environment came
-- to be. They stay when it goes: jobs that ran in it name them.
CREATE TABLE clusters (
    created INTEGER PRIMARY KEY,
    arn TEXT NOT NULL
);
-- 0 and '': not known, as of all environments from before these columns until the registry tells.
ALTER TABLE environments ADD COLUMN created INTEGER NOT NULL DEFAULT 0;
ALTER TABLE environments ADD COLUMN cluster_arn TEXT NOT NULL DEFAULT '';
-- In which of them the latest attempt was made, the run is, and an attempt was made; NULL: not known.
ALTER TABLE jobs ADD COLUMN cluster INTEGER;
ALTER TABLE jobs ADD COLUMN run_cluster INTEGER;
ALTER TABLE attempts ADD COLUMN cluster INTEGER;
