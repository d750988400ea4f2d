-- For this transaction the planner takes no constraint for granted: else it would answer from the constraint itself
-- whether a row breaks it. The search path stays the session's own, for functions in checks that rely on it.
select pg_catalog.set_config('constraint_exclusion', 'off', true);
