-- Notes that everything which a run changed was undone by another.
update drillbook.index_change set undone_by = %(by)s where run_id = %(run_id)s and database = %(database)s;
