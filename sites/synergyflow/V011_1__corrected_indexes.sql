-- V011 as the rehearsal corrected it (V011-corrected.yaml says why). change-indexes builds each of them CONCURRENTLY.

-- Incidents
CREATE INDEX idx_incidents_status_sla_deadline ON synergyflow_incidents.incidents (status, sla_deadline)
    WHERE status != 'CLOSED' AND sla_deadline IS NOT NULL;
CREATE INDEX idx_incidents_created_at_status ON synergyflow_incidents.incidents (created_at DESC, status);
CREATE INDEX idx_incidents_assigned_to_status ON synergyflow_incidents.incidents (assigned_to, status)
    WHERE status NOT IN ('CLOSED', 'RESOLVED');
CREATE INDEX idx_incidents_priority_created_at ON synergyflow_incidents.incidents (priority, created_at DESC)
    WHERE status IN ('NEW', 'ASSIGNED', 'IN_PROGRESS');

-- Changes
CREATE INDEX idx_changes_status_scheduled_date ON synergyflow_changes.changes (scheduled_date)
    WHERE status IN ('SCHEDULED', 'IN_PROGRESS');
CREATE INDEX idx_changes_status_created_at ON synergyflow_changes.changes (status, created_at DESC)
    WHERE status = 'PENDING_APPROVAL';
CREATE INDEX idx_changes_risk_status ON synergyflow_changes.changes (risk, status)
    WHERE risk IN ('HIGH', 'EMERGENCY') AND status NOT IN ('COMPLETED', 'CANCELLED');

-- Tasks
CREATE INDEX idx_tasks_project_sprint_status ON synergyflow_tasks.tasks (project_id, sprint_id, status);
CREATE INDEX idx_tasks_assigned_to_status ON synergyflow_tasks.tasks (assigned_to, status)
    WHERE assigned_to IS NOT NULL AND status != 'DONE';

-- Audit trail and policies
CREATE INDEX idx_audit_events_entity_occurred_at ON synergyflow_audit.audit_events (entity_type, entity_id, occurred_at DESC);
CREATE INDEX idx_audit_events_user_action ON synergyflow_audit.audit_events (user_id, action, occurred_at DESC);
CREATE INDEX idx_policy_decisions_name_time ON synergyflow_audit.policy_decisions (policy_name, evaluated_at DESC);

-- Knowledge base
CREATE INDEX idx_articles_status_created_at ON synergyflow_knowledge.articles (created_at)
    WHERE status IN ('DRAFT', 'REVIEW');
CREATE INDEX idx_articles_expires_status ON synergyflow_knowledge.articles (expires_at, status)
    WHERE status = 'PUBLISHED' AND expires_at IS NOT NULL;
