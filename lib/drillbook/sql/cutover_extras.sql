-- What a dump carries and the structure's questions leave out: comments, security labels, large objects and their owners.
select 'comment' as kind, pg_catalog.concat_ws(' ', i.type, i.identity) as name, c.description as definition
  from pg_catalog.pg_description c, lateral pg_catalog.pg_identify_object(c.classoid, c.objoid, c.objsubid) i
 where c.objoid >= 16384 or c.classoid = 'pg_catalog.pg_namespace'::regclass
union all
select 'security label', pg_catalog.concat_ws(' ', l.provider, i.type, i.identity), l.label
  from pg_catalog.pg_seclabel l, lateral pg_catalog.pg_identify_object(l.classoid, l.objoid, l.objsubid) i
union all
select 'large object', m.oid::text, pg_catalog.pg_get_userbyid(m.lomowner)::text
  from pg_catalog.pg_largeobject_metadata m;
