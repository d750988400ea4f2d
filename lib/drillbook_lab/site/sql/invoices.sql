-- The second site's one tenant. psql variables: owner, rows (invoices).
\set ON_ERROR_STOP on
SET ROLE :"owner";
BEGIN;
CREATE SCHEMA billing;
CREATE TABLE billing.customers (
    id   integer GENERATED ALWAYS AS IDENTITY,
    name text NOT NULL,
    vat  text NOT NULL
);
INSERT INTO billing.customers (name, vat)
SELECT 'Customer ' || n, 'EU' || md5('vat' || n) FROM generate_series(1, greatest(:rows / 50, 10)) n;
ALTER TABLE billing.customers ADD PRIMARY KEY (id), ADD UNIQUE (vat);
CREATE TABLE billing.invoices (
    id           bigint GENERATED ALWAYS AS IDENTITY,
    customer_id  integer NOT NULL,
    amount_cents bigint NOT NULL CHECK (amount_cents > 0),
    currency     char(3) NOT NULL,
    issued_at    timestamptz NOT NULL DEFAULT now(),
    paid_at      timestamptz,
    memo         text
);
INSERT INTO billing.invoices (customer_id, amount_cents, currency, issued_at, paid_at, memo)
SELECT 1 + floor(greatest(:rows / 50, 10) * ((hashint8extended(n, 1) & 65535) / 65536.0) ^ 3)::int, 100 + n * 7 % 99900, 'EUR', t,
       CASE WHEN n % 40 <> 0 THEN t + interval '20 days' END, 'order ' || md5('memo' || n)
  FROM generate_series(1, :rows) n
 CROSS JOIN LATERAL (SELECT timestamptz '2026-08-01 00:00+00' - interval '3 years' * (1 - n::float8 / :rows) AS t) h;
ALTER TABLE billing.invoices ADD PRIMARY KEY (id), ADD FOREIGN KEY (customer_id) REFERENCES billing.customers (id);
CREATE INDEX invoices_customer_id ON billing.invoices (customer_id);
CREATE FUNCTION billing.open_amount(customer integer) RETURNS bigint LANGUAGE sql STABLE
    RETURN (SELECT coalesce(sum(amount_cents), 0) FROM billing.invoices WHERE customer_id = customer AND paid_at IS NULL);
CREATE MATERIALIZED VIEW billing.revenue_by_month AS
SELECT date_trunc('month', issued_at, 'UTC') AS month, sum(amount_cents) AS cents FROM billing.invoices GROUP BY 1;
COMMIT;
