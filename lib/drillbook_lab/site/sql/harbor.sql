-- The image registry that shares the cluster. psql variables: owner, rows (artifacts).
\set ON_ERROR_STOP on
SET ROLE :"owner";
BEGIN;
CREATE SCHEMA harbor;
CREATE TABLE harbor.artifact (
    id        serial,
    digest    varchar(255) NOT NULL,
    size      bigint NOT NULL,
    push_time timestamptz NOT NULL DEFAULT now()
);
INSERT INTO harbor.artifact (digest, size, push_time)
SELECT 'sha256:' || md5('a' || n) || md5('b' || n), 1000000 + n * 37 % 90000000, timestamptz '2026-08-01 00:00+00' - n * interval '1 hour'
  FROM generate_series(1, :rows) n;
ALTER TABLE harbor.artifact ADD PRIMARY KEY (id), ADD UNIQUE (digest);
CREATE TABLE harbor.tag (
    id          serial,
    artifact_id integer NOT NULL,
    name        varchar(255) NOT NULL
);
INSERT INTO harbor.tag (artifact_id, name) SELECT n, 'v1.' || n FROM generate_series(1, :rows) n;
ALTER TABLE harbor.tag ADD PRIMARY KEY (id), ADD FOREIGN KEY (artifact_id) REFERENCES harbor.artifact (id);
CREATE TABLE harbor.audit_log (
    id        bigserial,
    username  varchar(255) NOT NULL,
    resource  varchar(255) NOT NULL,
    operation varchar(20) NOT NULL,
    op_time   timestamptz NOT NULL DEFAULT now()
);
INSERT INTO harbor.audit_log (username, resource, operation, op_time)
SELECT 'robot$' || n % 9, 'library/app-' || n % 70, 'pull', timestamptz '2026-08-01 00:00+00' - n * interval '1 minute'
  FROM generate_series(1, :rows * 3) n;
ALTER TABLE harbor.audit_log ADD PRIMARY KEY (id);
CREATE INDEX idx_audit_log_op_time ON harbor.audit_log (op_time);
COMMIT;
