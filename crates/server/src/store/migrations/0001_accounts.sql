-- Money is in pico-dollars (10^-12): a token at N micro-dollars per million costs exactly N of them.
-- Times are milliseconds since 1970, UTC.

CREATE TABLE accounts (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    closed_ms BIGINT,
    -- 1: refused when the credit runs out; 0: billed afterwards, the balance may fall below zero.
    is_prepaid BIGINT NOT NULL,
    requests_per_minute BIGINT,
    tokens_per_minute BIGINT,
    concurrent_requests BIGINT,
    balance BIGINT NOT NULL,
    held BIGINT NOT NULL,
    running BIGINT NOT NULL,
    requests_full_us BIGINT NOT NULL,
    tokens_full_us BIGINT NOT NULL
);

CREATE TABLE keys (
    id TEXT PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES accounts (id),
    name TEXT NOT NULL,
    -- SHA-256. Secrets are 256 random bits, so no slow hash is needed.
    secret_hash BYTEA NOT NULL,
    -- The secret before the last rotation, while it is still accepted.
    previous_hash BYTEA,
    previous_until_ms BIGINT,
    scopes TEXT NOT NULL,
    models TEXT,
    tasks TEXT,
    default_task TEXT,
    created_ms BIGINT NOT NULL,
    expires_ms BIGINT,
    revoked_ms BIGINT,
    requests_per_minute BIGINT,
    tokens_per_minute BIGINT,
    concurrent_requests BIGINT,
    monthly_budget BIGINT,
    -- The month (year * 12 + month - 1) that `month_spent` belongs to.
    month BIGINT NOT NULL,
    month_spent BIGINT NOT NULL,
    held BIGINT NOT NULL,
    running BIGINT NOT NULL,
    requests_full_us BIGINT NOT NULL,
    tokens_full_us BIGINT NOT NULL
);
CREATE INDEX keys_by_account ON keys (account_id);

-- Credit set aside for requests that run. Those of a server that is gone are given back.
CREATE TABLE holds (
    id BIGINT PRIMARY KEY,
    server BIGINT NOT NULL,
    account_id TEXT NOT NULL,
    key_id TEXT NOT NULL,
    amount BIGINT NOT NULL
);
CREATE INDEX holds_by_server ON holds (server);

CREATE TABLE servers (
    id BIGINT PRIMARY KEY,
    seen_ms BIGINT NOT NULL
);

-- Append-only. `hash` is SHA-256 over the previous entry's hash and this entry's fields.
CREATE TABLE ledger (
    seq BIGINT PRIMARY KEY,
    at_ms BIGINT NOT NULL,
    account_id TEXT NOT NULL REFERENCES accounts (id),
    key_id TEXT,
    kind TEXT NOT NULL,
    amount BIGINT NOT NULL,
    balance BIGINT NOT NULL,
    tokens BIGINT NOT NULL,
    price BIGINT NOT NULL,
    model TEXT,
    tier TEXT,
    request_id TEXT,
    note TEXT,
    hash BYTEA NOT NULL
);
CREATE INDEX ledger_by_account ON ledger (account_id, at_ms, seq);

-- Billed requests whose answer may have been lost: the same again within the window is free.
CREATE TABLE answered (
    digest BYTEA PRIMARY KEY,
    at_ms BIGINT NOT NULL,
    repeats BIGINT NOT NULL
);
CREATE INDEX answered_by_time ON answered (at_ms);

CREATE TABLE invitations (
    code_hash BYTEA PRIMARY KEY,
    created_ms BIGINT NOT NULL,
    expires_ms BIGINT NOT NULL,
    account_id TEXT
);

-- Who changed what beside the ledger.
CREATE TABLE audit (
    seq BIGINT PRIMARY KEY,
    at_ms BIGINT NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    target TEXT NOT NULL,
    detail TEXT NOT NULL
);
