-- Tags of jobs that were changed after submission, all of them, as a MessagePack map. Others stand in the spec.
CREATE TABLE job_tags (
    sequence INTEGER PRIMARY KEY,
    tags BLOB NOT NULL
);
