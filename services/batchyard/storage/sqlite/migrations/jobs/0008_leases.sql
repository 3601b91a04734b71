-- Offers that were lost before their command started, which do not count as attempts.
ALTER TABLE jobs ADD COLUMN unstarted_losses INTEGER NOT NULL DEFAULT 0;
-- The run is being ended because its host is drained.
ALTER TABLE jobs ADD COLUMN run_evicted INTEGER;

-- An agent that is drained gets no offers; with a limit, in milliseconds, its runs are ended after that.
ALTER TABLE agents ADD COLUMN draining INTEGER NOT NULL DEFAULT 0;
ALTER TABLE agents ADD COLUMN drain_limit_ms INTEGER;

-- Names of a queue's compute environments, each preceded by a slash. Queues that are known without them count as a
-- revision older, so that they are told again.
ALTER TABLE queues ADD COLUMN environments TEXT NOT NULL DEFAULT '';
UPDATE queues SET revision = revision - 1;

-- The store's copy of the registry's compute environments.
CREATE TABLE environments (
    namespace TEXT NOT NULL,
    name TEXT NOT NULL,
    usable INTEGER NOT NULL,
    -- Thousandths of a vCPU; NULL: no ceiling.
    max_vcpus_milli INTEGER,
    revision INTEGER NOT NULL,
    PRIMARY KEY (namespace, name)
) WITHOUT ROWID;
