-- What recoveries leave on a server until somebody settles it: databases that a cut has put aside (their comment says whose, and
-- until when), databases that a run has carried and not put into service, and databases that are held read only.
select d.datname::text as name,
       pg_catalog.shobj_description(d.oid, 'pg_database') as comment,
       d.datname ~ '_(recovered|before|after)_[0-9]{8}t[0-9]{6}z_[0-9a-f]{6}$' as named_by_a_run,
       exists (select from pg_catalog.pg_db_role_setting s
                where s.setdatabase = d.oid and s.setrole = 0
                  and 'default_transaction_read_only=on' = any (s.setconfig)) as read_only
  from pg_catalog.pg_database d
 where not d.datistemplate
 order by d.datname;
