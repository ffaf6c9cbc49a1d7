-- Whether a hold counts among the requests that run at the same time: lines of batches do not.
ALTER TABLE holds ADD COLUMN is_counted BIGINT NOT NULL DEFAULT 1;

-- Files that were sent or written by a batch. What they hold is in a folder, under their id.
CREATE TABLE files (
    id TEXT PRIMARY KEY,
    -- The account; empty on a server without accounts.
    owner TEXT NOT NULL,
    purpose TEXT NOT NULL,
    filename TEXT NOT NULL,
    bytes BIGINT NOT NULL,
    created_ms BIGINT NOT NULL,
    expires_ms BIGINT
);
CREATE INDEX files_by_owner ON files (owner, created_ms, id);

CREATE TABLE batches (
    id TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    -- The key that sent it, whose limits and rights its lines have.
    key_id TEXT,
    input_file_id TEXT NOT NULL,
    -- JSON.
    metadata TEXT,
    status TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    expires_ms BIGINT NOT NULL,
    in_progress_ms BIGINT,
    finalizing_ms BIGINT,
    cancelling_ms BIGINT,
    -- When it became what `status` says, if that is final.
    ended_ms BIGINT,
    -- JSON: what is wrong with which line.
    errors TEXT,
    model TEXT,
    -- Names under which its answers and errors are written, from the start.
    output_file_id TEXT NOT NULL,
    error_file_id TEXT NOT NULL,
    total BIGINT NOT NULL DEFAULT 0,
    completed BIGINT NOT NULL DEFAULT 0,
    failed BIGINT NOT NULL DEFAULT 0,
    tokens BIGINT NOT NULL DEFAULT 0,
    -- How far it is: bytes of the three files that are read, or written and paid for.
    input_bytes BIGINT NOT NULL DEFAULT 0,
    output_bytes BIGINT NOT NULL DEFAULT 0,
    error_bytes BIGINT NOT NULL DEFAULT 0,
    -- The server that works on it, and until when without a sign of life.
    runner BIGINT,
    runner_until_ms BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX batches_by_owner ON batches (owner, created_ms, id);
CREATE INDEX batches_by_status ON batches (status, created_ms);
