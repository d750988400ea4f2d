-- The code platform that shares the cluster. psql variables: owner, rows (issues).
\set ON_ERROR_STOP on
SET ROLE :"owner";
BEGIN;
CREATE SCHEMA gitlab;
CREATE TABLE gitlab.projects (
    id         bigserial,
    path       varchar(255) NOT NULL,
    visibility smallint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO gitlab.projects (path, visibility, created_at)
SELECT 'group-' || n % 40 || '/project-' || n, n % 3, timestamptz '2023-08-01 00:00+00' + n * interval '1 hour'
  FROM generate_series(1, greatest(:rows / 20, 10)) n;
ALTER TABLE gitlab.projects ADD PRIMARY KEY (id), ADD UNIQUE (path);
CREATE TABLE gitlab.issues (
    id          bigserial,
    project_id  bigint NOT NULL,
    iid         bigint NOT NULL,
    title       text NOT NULL,
    description text,
    state       varchar(10) NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now()
);
INSERT INTO gitlab.issues (project_id, iid, title, description, state, created_at)
SELECT 1 + floor(greatest(:rows / 20, 10) * ((hashint8extended(n, 1) & 65535) / 65536.0) ^ 3)::bigint, n, 'Issue ' || n,
       repeat(md5('issue' || n) || ' ', 4), CASE WHEN n % 50 = 0 THEN 'opened' ELSE 'closed' END,
       timestamptz '2026-08-01 00:00+00' - n * interval '10 minutes'
  FROM generate_series(1, :rows) n;
ALTER TABLE gitlab.issues ADD PRIMARY KEY (id), ADD FOREIGN KEY (project_id) REFERENCES gitlab.projects (id), ADD UNIQUE (project_id, iid);
CREATE TABLE gitlab.pipelines (
    id          bigserial,
    project_id  bigint NOT NULL,
    ref         varchar(255) NOT NULL,
    status      varchar(20) NOT NULL,
    started_at  timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz
);
INSERT INTO gitlab.pipelines (project_id, ref, status, started_at, finished_at)
SELECT 1 + n % 10, 'main', CASE WHEN n % 12 = 0 THEN 'failed' ELSE 'success' END,
       timestamptz '2026-08-01 00:00+00' - n * interval '5 minutes', timestamptz '2026-08-01 00:00+00' - n * interval '4 minutes'
  FROM generate_series(1, :rows * 2) n;
ALTER TABLE gitlab.pipelines ADD PRIMARY KEY (id), ADD FOREIGN KEY (project_id) REFERENCES gitlab.projects (id);
CREATE INDEX index_pipelines_on_project_and_status ON gitlab.pipelines (project_id, status);
COMMIT;
