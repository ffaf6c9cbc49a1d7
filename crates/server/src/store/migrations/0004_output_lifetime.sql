-- How long what a batch writes is kept after it has ended; NULL is until someone deletes it.
ALTER TABLE batches ADD COLUMN output_lifetime_ms BIGINT;
