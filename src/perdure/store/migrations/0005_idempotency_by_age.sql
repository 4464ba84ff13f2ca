-- For the sweep, which removes answers that are over a day old.

CREATE INDEX idempotency_by_age ON idempotency (created_at);
