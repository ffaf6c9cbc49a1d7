-- People who are signed in: SHA-256 of their cookie's secret, and the key that they showed.
CREATE TABLE sessions (
    token_hash BYTEA PRIMARY KEY,
    key_id TEXT NOT NULL REFERENCES keys (id),
    expires_ms BIGINT NOT NULL
);
CREATE INDEX sessions_by_key ON sessions (key_id);

-- The ledger's usage, added up as it is billed, so that a page reads a year in a few rows. What was
-- billed before this table has no task.
CREATE TABLE usage_days (
    account_id TEXT NOT NULL REFERENCES accounts (id),
    day_ms BIGINT NOT NULL,
    key_id TEXT NOT NULL,
    task TEXT NOT NULL,
    requests BIGINT NOT NULL,
    tokens BIGINT NOT NULL,
    cost BIGINT NOT NULL,
    PRIMARY KEY (account_id, day_ms, key_id, task)
);
CREATE INDEX usage_days_by_day ON usage_days (day_ms);
INSERT INTO usage_days (account_id, day_ms, key_id, task, requests, tokens, cost)
SELECT account_id, at_ms / 86400000 * 86400000, COALESCE(key_id, ''), '', COUNT(*),
       CAST(SUM(tokens) AS BIGINT), CAST(-SUM(amount) AS BIGINT)
FROM ledger WHERE kind = 'usage' GROUP BY 1, 2, 3;

-- What an account was given stands among millions of entries of what it used.
CREATE INDEX ledger_credit ON ledger (account_id, seq) WHERE kind = 'credit';
