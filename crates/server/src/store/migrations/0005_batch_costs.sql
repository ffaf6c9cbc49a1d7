-- What a batch's lines have cost, added up as they are billed: it is read beside the batch, not out of
-- millions of entries of the ledger, whose requests of a batch are called `{id}-{line}`.
ALTER TABLE batches ADD COLUMN cost BIGINT NOT NULL DEFAULT 0;
UPDATE batches SET cost = COALESCE((
    SELECT CAST(-SUM(ledger.amount) AS BIGINT) FROM ledger
    WHERE ledger.account_id = batches.owner AND ledger.at_ms >= batches.created_ms
        AND ledger.request_id LIKE batches.id || '-%'
), 0);

-- Operators see the batches of all accounts, newest first.
CREATE INDEX batches_by_time ON batches (created_ms, id);
