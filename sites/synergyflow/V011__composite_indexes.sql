-- V011: composite indexes for the queries behind the dashboards, boards and audit views.
-- As its authors wrote it; what is wrong with it, a rehearsal says (V011.yaml has the claims).

-- Incidents
CREATE INDEX idx_incidents_status_sla_deadline ON synergyflow_incidents.incidents (status, sla_deadline)
    WHERE status != 'CLOSED' AND sla_deadline IS NOT NULL;
CREATE INDEX idx_incidents_created_at_status ON synergyflow_incidents.incidents (created_at DESC, status)
    WHERE status != 'CLOSED';
CREATE INDEX idx_incidents_assigned_to_status ON synergyflow_incidents.incidents (assigned_to, status)
    WHERE assigned_to IS NOT NULL;
CREATE INDEX idx_incidents_priority_created_at ON synergyflow_incidents.incidents (priority, created_at DESC)
    WHERE status IN ('NEW', 'ASSIGNED', 'IN_PROGRESS');

-- Changes
CREATE INDEX idx_changes_status_scheduled_date ON synergyflow_changes.changes (status, scheduled_date DESC)
    WHERE status IN ('SCHEDULED', 'IN_PROGRESS');
CREATE INDEX idx_changes_status_created_at ON synergyflow_changes.changes (status, created_at DESC)
    WHERE status = 'PENDING_APPROVAL';
CREATE INDEX idx_changes_risk_status ON synergyflow_changes.changes (risk, status)
    WHERE risk IN ('HIGH', 'EMERGENCY');

-- Tasks
CREATE INDEX idx_tasks_project_sprint_status ON synergyflow_tasks.tasks (project_id, status)
    WHERE status IN ('NOT_STARTED', 'IN_PROGRESS', 'DONE');
CREATE INDEX idx_tasks_assigned_to_status ON synergyflow_tasks.tasks (assigned_to, status)
    WHERE assigned_to IS NOT NULL AND status != 'DONE';

-- Audit trail and policies
CREATE INDEX idx_audit_events_entity_occurred_at ON synergyflow_audit.audit_events (entity_type, entity_id, occurred_at DESC);
CREATE INDEX idx_audit_events_user_action ON synergyflow_audit.audit_events (user_id, action, occurred_at DESC);
CREATE INDEX idx_policy_decisions_name_time ON synergyflow_audit.policy_decisions (policy_name, evaluated_at DESC)
    WHERE evaluated_at > NOW() - INTERVAL '90 days';

-- Knowledge base
CREATE INDEX idx_articles_status_created_at ON synergyflow_knowledge.articles (status, created_at DESC)
    WHERE status IN ('DRAFT', 'REVIEW', 'PUBLISHED');
CREATE INDEX idx_articles_expires_status ON synergyflow_knowledge.articles (expires_at, status)
    WHERE status = 'PUBLISHED' AND expires_at IS NOT NULL;
