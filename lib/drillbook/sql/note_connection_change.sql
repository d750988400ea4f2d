-- Notes a setting before it is changed, its values as JSON; a note of an earlier attempt stays.
insert into drillbook.connection_change (run_id, undoes, database, kind, namespace, name, place, key, before, after)
values (%(run_id)s, %(undoes)s, %(database)s, %(kind)s, %(namespace)s, %(name)s, %(place)s, %(key)s, %(before)s, %(after)s)
on conflict do nothing;
