-- The incident platform's database, after its migrations: three years of history, skewed as the real one is.
-- Every value comes from a hash of the row's number and one fixed instant, so two labs hold the same rows.
-- Keys and indexes come after the rows: built once, they cost a third of the time and of the WAL.
-- psql variables: owner (the application's role), rows (incidents; everything else follows from it).
\set ON_ERROR_STOP on
CREATE EXTENSION IF NOT EXISTS pg_trgm;
SET ROLE :"owner";
BEGIN;
CREATE SCHEMA synergyflow_incidents;
CREATE SCHEMA synergyflow_changes;
CREATE SCHEMA synergyflow_tasks;
CREATE SCHEMA synergyflow_audit;
CREATE SCHEMA synergyflow_knowledge;

-- A number in [0, 1) from a row's number; its third power stands for the long tail of agents, projects, entities.
CREATE FUNCTION synergyflow_audit.spread(n bigint, seed bigint) RETURNS double precision
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (hashint8extended(n, seed) & 16777215)::double precision / 16777216;

CREATE SEQUENCE synergyflow_incidents.incident_number;
CREATE TABLE synergyflow_incidents.incidents (
    id           uuid DEFAULT gen_random_uuid(),
    incident_id  varchar(50) NOT NULL
                 DEFAULT 'INC-' || lpad(nextval('synergyflow_incidents.incident_number')::text, 9, '0'),
    title        varchar(200) NOT NULL,
    description  text,
    priority     varchar(20) NOT NULL CHECK (priority IN ('LOW', 'MEDIUM', 'HIGH', 'CRITICAL')),
    severity     varchar(10) NOT NULL,
    status       varchar(20) NOT NULL DEFAULT 'NEW'
                 CHECK (status IN ('NEW', 'ASSIGNED', 'IN_PROGRESS', 'RESOLVED', 'CLOSED')),
    assigned_to  uuid,
    sla_deadline timestamptz NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    resolved_at  timestamptz,
    closed_at    timestamptz,
    created_by   uuid,
    updated_at   timestamptz NOT NULL DEFAULT now(),
    version      bigint NOT NULL DEFAULT 0
);
INSERT INTO synergyflow_incidents.incidents
SELECT md5('incident' || n)::uuid, 'INC-' || lpad(nextval('synergyflow_incidents.incident_number')::text, 9, '0'),
       (ARRAY['Login fails', 'Report is slow', 'Printer offline', 'Mail bounces', 'Disk full', 'VPN drops'])[1 + (n % 6)]
           || ' at site ' || (n % 97),
       'Seen by user ' || md5('user' || n % 5000) || ' on host ' || md5('host' || n % 900),
       (ARRAY['LOW', 'MEDIUM', 'HIGH', 'CRITICAL'])[1 + floor(4 * u ^ 2)::int], 'S' || (1 + n % 4),
       s.status, CASE WHEN s.status <> 'NEW' THEN md5('agent' || floor(200 * u ^ 3))::uuid END,
       t + interval '8 hours', t, CASE WHEN s.status IN ('RESOLVED', 'CLOSED') THEN t + interval '5 hours' END,
       CASE WHEN s.status = 'CLOSED' THEN t + interval '2 days' END, md5('user' || n % 5000)::uuid,
       t + interval '2 days', n % 7
  FROM generate_series(1, :rows) n
 CROSS JOIN LATERAL (SELECT synergyflow_audit.spread(n, 1) AS u, synergyflow_audit.spread(n, 2) AS v,
                            timestamptz '2026-08-01 00:00+00' - interval '3 years' * (1 - n::float8 / :rows) AS t) h
 CROSS JOIN LATERAL (SELECT CASE WHEN v < 0.98 THEN 'CLOSED' WHEN v < 0.985 THEN 'RESOLVED' WHEN v < 0.99 THEN 'IN_PROGRESS'
                                 WHEN v < 0.995 THEN 'ASSIGNED' ELSE 'NEW' END AS status) s;
ALTER TABLE synergyflow_incidents.incidents ADD PRIMARY KEY (id), ADD UNIQUE (incident_id);
CREATE INDEX idx_incidents_status ON synergyflow_incidents.incidents (status);
CREATE INDEX idx_incidents_assigned_to ON synergyflow_incidents.incidents (assigned_to);
CREATE INDEX idx_incidents_sla_deadline ON synergyflow_incidents.incidents (sla_deadline);

CREATE TABLE synergyflow_incidents.worklogs (
    id          bigint GENERATED ALWAYS AS IDENTITY,
    incident_id uuid NOT NULL,
    minutes     integer NOT NULL CHECK (minutes > 0),
    note        text NOT NULL,
    logged_at   timestamptz NOT NULL DEFAULT now()
);
INSERT INTO synergyflow_incidents.worklogs (incident_id, minutes, note, logged_at)
SELECT md5('incident' || n * 3)::uuid, 5 + n % 90, 'step ' || md5('note' || n), timestamptz '2026-07-01 00:00+00' - n * interval '1 minute'
  FROM generate_series(1, :rows / 3) n;
ALTER TABLE synergyflow_incidents.worklogs ADD PRIMARY KEY (id), ADD FOREIGN KEY (incident_id) REFERENCES synergyflow_incidents.incidents (id);
CREATE INDEX idx_worklogs_incident_id ON synergyflow_incidents.worklogs (incident_id);
CREATE FUNCTION synergyflow_incidents.time_spent(incident uuid) RETURNS bigint LANGUAGE sql STABLE
    RETURN (SELECT coalesce(sum(minutes), 0) FROM synergyflow_incidents.worklogs WHERE incident_id = incident);
CREATE MATERIALIZED VIEW synergyflow_incidents.incidents_by_day AS
SELECT created_at::date AS day, priority, count(*) AS opened, count(*) FILTER (WHERE status = 'CLOSED') AS closed
  FROM synergyflow_incidents.incidents GROUP BY 1, 2;
CREATE UNIQUE INDEX incidents_by_day_key ON synergyflow_incidents.incidents_by_day (day, priority);

CREATE TABLE synergyflow_changes.changes (
    id             uuid DEFAULT gen_random_uuid(),
    change_id      varchar(50) NOT NULL,
    title          varchar(200) NOT NULL,
    description    text,
    risk           varchar(20) NOT NULL CHECK (risk IN ('LOW', 'MEDIUM', 'HIGH', 'EMERGENCY')),
    status         varchar(20) NOT NULL
                   CHECK (status IN ('DRAFT', 'PENDING_APPROVAL', 'SCHEDULED', 'IN_PROGRESS', 'COMPLETED', 'CANCELLED')),
    scheduled_date timestamptz,
    created_by     uuid,
    created_at     timestamptz NOT NULL DEFAULT now(),
    updated_at     timestamptz NOT NULL DEFAULT now(),
    version        bigint NOT NULL DEFAULT 0
);
INSERT INTO synergyflow_changes.changes
SELECT md5('change' || n)::uuid, 'CHG-' || lpad(n::text, 9, '0'), 'Upgrade of service ' || n % 300, 'plan ' || md5('plan' || n),
       (ARRAY['LOW', 'MEDIUM', 'HIGH', 'EMERGENCY'])[1 + floor(4 * u ^ 3)::int],
       CASE WHEN v < 0.94 THEN 'COMPLETED' WHEN v < 0.96 THEN 'CANCELLED' WHEN v < 0.97 THEN 'SCHEDULED'
            WHEN v < 0.98 THEN 'PENDING_APPROVAL' WHEN v < 0.99 THEN 'IN_PROGRESS' ELSE 'DRAFT' END,
       t + interval '7 days', md5('agent' || floor(200 * u ^ 3))::uuid, t, t + interval '1 day', n % 5
  FROM generate_series(1, :rows / 2) n
 CROSS JOIN LATERAL (SELECT synergyflow_audit.spread(n, 3) AS u, synergyflow_audit.spread(n, 4) AS v,
                            timestamptz '2026-08-01 00:00+00' - interval '3 years' * (1 - 2 * n::float8 / :rows) AS t) h;
ALTER TABLE synergyflow_changes.changes ADD PRIMARY KEY (id), ADD UNIQUE (change_id);
CREATE INDEX idx_changes_risk ON synergyflow_changes.changes (risk);
CREATE INDEX idx_changes_scheduled_date ON synergyflow_changes.changes (scheduled_date);

CREATE TABLE synergyflow_tasks.tasks (
    id           uuid DEFAULT gen_random_uuid(),
    task_id      varchar(50) NOT NULL,
    project_id   uuid NOT NULL,
    sprint_id    uuid,
    title        varchar(200) NOT NULL,
    description  text,
    status       varchar(20) NOT NULL CHECK (status IN ('NOT_STARTED', 'IN_PROGRESS', 'DONE')),
    assigned_to  uuid,
    story_points integer,
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now(),
    version      bigint NOT NULL DEFAULT 0
);
INSERT INTO synergyflow_tasks.tasks
SELECT md5('task' || n)::uuid, 'TSK-' || lpad(n::text, 9, '0'), md5('project' || floor(80 * u ^ 3))::uuid,
       md5('sprint' || floor(400 * u ^ 2))::uuid, 'Task ' || n, 'acceptance ' || md5('task' || n),
       CASE WHEN v < 0.9 THEN 'DONE' WHEN v < 0.94 THEN 'IN_PROGRESS' ELSE 'NOT_STARTED' END,
       md5('agent' || floor(200 * v ^ 3))::uuid, 1 + n % 13, t, t + interval '9 days', n % 4
  FROM generate_series(1, :rows / 2) n
 CROSS JOIN LATERAL (SELECT synergyflow_audit.spread(n, 5) AS u, synergyflow_audit.spread(n, 6) AS v,
                            timestamptz '2026-08-01 00:00+00' - interval '3 years' * (1 - 2 * n::float8 / :rows) AS t) h;
ALTER TABLE synergyflow_tasks.tasks ADD PRIMARY KEY (id), ADD UNIQUE (task_id);
CREATE INDEX idx_tasks_project_id ON synergyflow_tasks.tasks (project_id);
CREATE INDEX idx_tasks_sprint_id ON synergyflow_tasks.tasks (sprint_id);
CREATE INDEX idx_tasks_status ON synergyflow_tasks.tasks (status);
CREATE INDEX idx_tasks_assigned_to ON synergyflow_tasks.tasks (assigned_to);

CREATE TABLE synergyflow_audit.audit_events (
    id             uuid DEFAULT gen_random_uuid(),
    entity_type    varchar(50) NOT NULL,
    entity_id      varchar(100) NOT NULL,
    action         varchar(50) NOT NULL,
    user_id        uuid,
    correlation_id uuid,
    occurred_at    timestamptz NOT NULL DEFAULT now(),
    payload_json   jsonb,
    signature      varchar(128)
);
INSERT INTO synergyflow_audit.audit_events
SELECT md5('event' || n)::uuid, (ARRAY['incident', 'change', 'task', 'article'])[1 + floor(4 * u ^ 2)::int],
       'E-' || floor(:rows * u ^ 3)::bigint, (ARRAY['viewed', 'updated', 'assigned', 'closed'])[1 + n % 4],
       md5('agent' || floor(200 * v ^ 3))::uuid, md5('correlation' || n / 3)::uuid,
       timestamptz '2026-08-01 00:00+00' - interval '3 years' * (1 - n::float8 / (3 * :rows)),
       jsonb_build_object('field', 'status', 'row', n), md5('signature' || n)
  FROM generate_series(1, 3 * :rows) n
 CROSS JOIN LATERAL (SELECT synergyflow_audit.spread(n, 7) AS u, synergyflow_audit.spread(n, 8) AS v) h;
ALTER TABLE synergyflow_audit.audit_events ADD PRIMARY KEY (id);
CREATE INDEX idx_audit_events_entity ON synergyflow_audit.audit_events (entity_type, entity_id);
CREATE INDEX idx_audit_events_occurred_at ON synergyflow_audit.audit_events (occurred_at DESC);

CREATE TABLE synergyflow_audit.policy_decisions (
    id             uuid DEFAULT gen_random_uuid(),
    policy_name    varchar(100) NOT NULL,
    policy_version varchar(20) NOT NULL,
    input_data     jsonb NOT NULL,
    decision       jsonb NOT NULL,
    reason         text,
    evaluated_at   timestamptz NOT NULL DEFAULT now()
);
INSERT INTO synergyflow_audit.policy_decisions
SELECT md5('decision' || n)::uuid, 'policy-' || floor(40 * u ^ 3), '1.' || n % 9, jsonb_build_object('amount', n % 1000),
       jsonb_build_object('allow', n % 11 <> 0), CASE WHEN n % 11 = 0 THEN 'limit exceeded' END,
       timestamptz '2026-08-01 00:00+00' - interval '3 years' * (1 - n::float8 / :rows)
  FROM generate_series(1, :rows) n CROSS JOIN LATERAL (SELECT synergyflow_audit.spread(n, 9) AS u) h;
ALTER TABLE synergyflow_audit.policy_decisions ADD PRIMARY KEY (id);
CREATE INDEX idx_policy_decisions_policy_name ON synergyflow_audit.policy_decisions (policy_name);
CREATE INDEX idx_policy_decisions_evaluated_at ON synergyflow_audit.policy_decisions (evaluated_at DESC);

CREATE TABLE synergyflow_knowledge.articles (
    id         uuid DEFAULT gen_random_uuid(),
    article_id varchar(50) NOT NULL,
    title      varchar(200) NOT NULL,
    content    text NOT NULL,
    category   varchar(50),
    status     varchar(20) NOT NULL CHECK (status IN ('DRAFT', 'REVIEW', 'PUBLISHED', 'ARCHIVED')),
    owner_id   uuid,
    expires_at timestamptz,
    created_by uuid,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    version    bigint NOT NULL DEFAULT 0
);
INSERT INTO synergyflow_knowledge.articles
SELECT md5('article' || n)::uuid, 'KB-' || lpad(n::text, 7, '0'), 'How to repair device ' || n % 400,
       repeat('Step ' || md5('article' || n) || '. ', 8), 'category-' || n % 12,
       CASE WHEN v < 0.7 THEN 'PUBLISHED' WHEN v < 0.9 THEN 'ARCHIVED' WHEN v < 0.95 THEN 'REVIEW' ELSE 'DRAFT' END,
       md5('agent' || floor(200 * v ^ 3))::uuid, t + interval '2 years', md5('agent' || n % 200)::uuid, t, t, n % 9
  FROM generate_series(1, :rows / 6) n
 CROSS JOIN LATERAL (SELECT synergyflow_audit.spread(n, 10) AS v,
                            timestamptz '2026-08-01 00:00+00' - interval '3 years' * (1 - 6 * n::float8 / :rows) AS t) h;
ALTER TABLE synergyflow_knowledge.articles ADD PRIMARY KEY (id), ADD UNIQUE (article_id);
CREATE INDEX idx_articles_status ON synergyflow_knowledge.articles (status);
CREATE INDEX idx_articles_title_trgm ON synergyflow_knowledge.articles USING gin (title gin_trgm_ops);

CREATE TABLE public.event_publication (
    id               uuid DEFAULT gen_random_uuid(),
    event_type       varchar(500) NOT NULL,
    listener_id      varchar(500) NOT NULL,
    serialized_event text NOT NULL,
    publication_date timestamptz NOT NULL DEFAULT now(),
    completion_date  timestamptz
);
INSERT INTO public.event_publication
SELECT md5('publication' || n)::uuid, 'io.synergyflow.IncidentOpened', 'listener-' || n % 5, '{"incident": ' || n || '}',
       timestamptz '2026-08-01 00:00+00' - n * interval '1 minute',
       CASE WHEN n % 400 <> 0 THEN timestamptz '2026-08-01 00:00+00' - n * interval '1 minute' + interval '2 seconds' END
  FROM generate_series(1, :rows / 4) n;
ALTER TABLE public.event_publication ADD PRIMARY KEY (id);
CREATE INDEX idx_event_publication_pending ON public.event_publication (publication_date) WHERE completion_date IS NULL;
COMMIT;
