-- Notes a change before it is made; a note of an earlier attempt stays.
insert into drillbook.index_change (run_id, undoes, database, action, schema_name, table_name, index_name, statement)
values (%(run_id)s, %(undoes)s, %(database)s, %(action)s, %(schema)s, %(table)s, %(index)s, %(statement)s)
on conflict do nothing;
