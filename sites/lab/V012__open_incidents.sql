-- A small index migration on the lab's first tenant: what `runbooks/change-indexes.ipynb` tries by default.
CREATE INDEX idx_incidents_open_deadline ON synergyflow_incidents.incidents (sla_deadline) WHERE status <> 'CLOSED';
CREATE INDEX idx_incidents_assigned_to_status ON synergyflow_incidents.incidents (assigned_to, status);
-- The index above begins with the same column.
DROP INDEX synergyflow_incidents.idx_incidents_assigned_to;
