-- Notes that everything which a run changed was undone by another, or by itself.
update drillbook.connection_change set undone_by = %(by)s where run_id = %(run_id)s;
