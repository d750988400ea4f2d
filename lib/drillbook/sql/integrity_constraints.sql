-- Every validated foreign key, check and not-null constraint of the user's tables, with the statement that looks for one
-- row that breaks it: exists, so no row leaves the server. Unvalidated and unenforced ones promise nothing.
with own as (
    select c.oid, c.relkind, pg_catalog.format('%%I.%%I', n.nspname, c.relname) as quoted
      from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
     where c.relkind = 'r' and c.relpersistence <> 't' and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
)
select own.quoted || '.' || pg_catalog.quote_ident(k.conname) as name,
       'foreign key' as kind,
       pg_catalog.format('select exists (select from only %%s child where %%s and not exists (select from %%s %%I.%%I parent where %%s))',
           own.quoted,
           pg_catalog.string_agg(pg_catalog.format('child.%%I is not null', ca.attname), ' and ' order by column_.ordinality),
           case pc.relkind when 'r' then 'only' else '' end, pn.nspname, pc.relname,
           pg_catalog.string_agg(pg_catalog.format('child.%%I operator(%%s) parent.%%I', ca.attname,
               (select pg_catalog.format('%%I.%%s', on_.nspname, o.oprname)
                  from pg_catalog.pg_operator o join pg_catalog.pg_namespace on_ on on_.oid = o.oprnamespace
                 where o.oid = k.conpfeqop[column_.ordinality]), pa.attname), ' and ' order by column_.ordinality)) as statement
  from own
  join pg_catalog.pg_constraint k on k.conrelid = own.oid and k.contype = 'f' and k.convalidated
  join pg_catalog.pg_class pc on pc.oid = k.confrelid
  join pg_catalog.pg_namespace pn on pn.oid = pc.relnamespace
  cross join lateral unnest(k.conkey, k.confkey) with ordinality as column_ (child, parent, ordinality)
  join pg_catalog.pg_attribute ca on ca.attrelid = k.conrelid and ca.attnum = column_.child
  join pg_catalog.pg_attribute pa on pa.attrelid = k.confrelid and pa.attnum = column_.parent
 group by own.quoted, k.oid, k.conname, k.conpfeqop, pn.nspname, pc.relname, pc.relkind
union all
select own.quoted || '.' || pg_catalog.quote_ident(k.conname), 'check',
       pg_catalog.format('select exists (select from only %%s where not (%%s))', own.quoted, pg_catalog.pg_get_expr(k.conbin, k.conrelid))
  from own join pg_catalog.pg_constraint k on k.conrelid = own.oid and k.contype = 'c' and k.convalidated
union all
select own.quoted, 'not null',
       -- Not "is null": since PostgreSQL 17 the planner takes a not-null constraint's word for that.
       pg_catalog.format('select exists (select from only %%s where pg_catalog.num_nulls(%%s) > 0)', own.quoted,
                         pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' order by a.attnum))
  from own join pg_catalog.pg_attribute a on a.attrelid = own.oid and a.attnotnull and a.attnum > 0 and not a.attisdropped
 where not exists (select from pg_catalog.pg_constraint k
                    where k.conrelid = own.oid and k.contype = 'n' and not k.convalidated and a.attnum = any (k.conkey))
 group by own.quoted
 order by 1, 2;
