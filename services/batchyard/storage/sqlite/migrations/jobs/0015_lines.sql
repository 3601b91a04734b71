-- The time limit rounded up to one of few, which names the line in which a job waits; NULL: none.
ALTER TABLE jobs ADD COLUMN line_time_limit_s INTEGER;
UPDATE jobs SET line_time_limit_s = (
    SELECT min(column1) FROM (
        VALUES (60), (75), (94), (118), (147), (184), (229), (287), (358), (448),
            (559), (699), (874), (1092), (1365), (1706), (2132), (2665), (3331), (4164),
            (5205), (6506), (8132), (10165), (12706), (15882), (19853), (24816), (31020), (38775),
            (48468), (60585), (75731), (94664), (118330), (147912), (184890), (231112), (288890), (361112),
            (451390), (564238), (705297), (881621), (1102026), (1377533), (1721916), (2152395), (2690494), (3363117),
            (4203896), (5254870), (6568587), (8210734), (10263417), (12829271), (16036589), (20045736), (25057170), (31321462)
    ) WHERE column1 >= timeout_s
) WHERE timeout_s IS NOT NULL AND state NOT IN (6, 7);

-- Jobs that are to be placed, by the lines in which they wait, in the order of each: by priority within a share, else by
-- submission.
CREATE INDEX jobs_waiting ON jobs (
    namespace, job_queue, share_identifier, vcpus_milli, memory_mib, gpus, line_time_limit_s,
    CASE WHEN share_identifier IS NULL THEN sequence ELSE ((9999 - scheduling_priority) << 48) + sequence END
) WHERE state = 3 AND run_state IS NULL;
-- Who asked for all active jobs at once asks for those that wait, or for those of agents.
DROP INDEX jobs_active;
