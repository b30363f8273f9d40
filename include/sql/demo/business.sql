-- Demonstration business data, for `make run`, tests and benchmarks: the requests that log messages may name.
--
-- `req-000000` and on, always the same for the same number; plus `req-789` of the documented example, whose risk for the
-- premium user `user-123` at 8.8.8.8 is 0.15. How many: the setting `demo.requests` of the session, 200000 without one
-- (`SELECT set_config('demo.requests', '20000', false)` before). Harmless when run again: only what is missing is added.
CREATE TABLE IF NOT EXISTS demo_requests (
    request_id text PRIMARY KEY,
    unit text NOT NULL,
    transaction_type text NOT NULL,
    amount numeric(14, 2),
    currency text NOT NULL
);

INSERT INTO demo_requests (
    request_id,
    unit,
    transaction_type,
    amount,
    currency
)
SELECT
    'req-' || lpad(n::text, greatest(6, length(n::text)), '0'),
    (ARRAY['payments', 'orders', 'accounts', 'catalog', 'shipping', 'support', 'search'])[1 + (n * 7919) % 7],
    -- Out of 20: mostly plain, one withdrawal, two refunds, one purchase of crypto money.
    (ARRAY[
        'payment', 'payment', 'payment', 'payment', 'payment', 'payment', 'purchase', 'purchase', 'purchase', 'purchase',
        'transfer', 'transfer', 'transfer', 'subscription', 'subscription', 'subscription',
        'refund', 'refund', 'withdrawal', 'crypto-purchase'
    ])[1 + (n * 104729) % 20],
    -- Most below 500, one in 10 up to 5,000, one in 100 up to 50,000, one in 250 unknown.
    CASE
        WHEN n % 250 = 7 THEN NULL
        ELSE round(((n * 15485863) % 50000)::numeric / 100
            * CASE WHEN n % 100 = 11 THEN 100 WHEN n % 10 = 3 THEN 10 ELSE 1 END, 2)
    END,
    (ARRAY['USD', 'USD', 'USD', 'EUR', 'EUR', 'GBP'])[1 + (n * 31) % 6]
FROM generate_series(
    0::bigint,
    coalesce(nullif(current_setting('demo.requests', true), ''), '200000')::bigint - 1
) AS numbers (n)
ON CONFLICT (request_id) DO NOTHING;

INSERT INTO demo_requests (
    request_id,
    unit,
    transaction_type,
    amount,
    currency
)
VALUES ('req-789', 'payments', 'payment', 1250.00, 'USD')
ON CONFLICT (request_id) DO UPDATE
SET
    unit = excluded.unit,
    transaction_type = excluded.transaction_type,
    amount = excluded.amount,
    currency = excluded.currency;

ANALYZE demo_requests;
