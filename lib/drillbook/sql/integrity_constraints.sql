-- Every validated foreign key, check, not-null and exclusion constraint of the user's tables, with the statement that looks
-- for one row that breaks it: exists, so no row leaves the server. Unvalidated and unenforced ones promise nothing. Of a
-- temporal key (PostgreSQL 18) WITHOUT OVERLAPS is an exclusion; a temporal foreign key's period must be covered by those of
-- all the rows that it refers to.
with own as (
    select c.oid, c.relkind, pg_catalog.format('%%I.%%I', n.nspname, c.relname) as quoted
      from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
     where c.relkind = 'r' and c.relpersistence <> 't' and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
), part as (
    select k.oid, k.conname, own.quoted, part.n, 'e' || part.n as alias,
           pg_catalog.pg_get_indexdef(i.indexrelid, part.n::int, true) as expression,
           coalesce(' and ' || pg_catalog.pg_get_expr(i.indpred, k.conrelid), '') as predicate,
           pg_catalog.format('%%I.%%s', on_.nspname, o.oprname) as operator,
           o.oprname = '=' and o.oprcanmerge as equal, o.oid = '&&(anyrange,anyrange)'::pg_catalog.regoperator as overlap
      from own
      join pg_catalog.pg_constraint k on k.conrelid = own.oid and k.conexclop is not null
      join pg_catalog.pg_index i on i.indexrelid = k.conindid and i.indisvalid
      cross join lateral unnest(k.conexclop) with ordinality as part (operator, n)
      join pg_catalog.pg_operator o on o.oid = part.operator
      join pg_catalog.pg_namespace on_ on on_.oid = o.oprnamespace
), excluding as (
    select quoted || '.' || pg_catalog.quote_ident(conname) as name, bool_and(equal or overlap) and count(*) filter (where overlap) <= 1 as sorted,
           -- "offset 0", so that no row is looked for through the constraint's own index, which might lack it.
           pg_catalog.format('(select %%s, ctid from (select *, ctid from only %%s offset 0) every where pg_catalog.num_nulls(%%s) = 0%%s)',
               pg_catalog.string_agg(pg_catalog.format('(%%s) as %%I', expression, alias), ', ' order by n), quoted,
               pg_catalog.string_agg('(' || expression || ')', ', ' order by n), predicate) as rows,
           pg_catalog.string_agg(pg_catalog.format('one.%%1$I operator(%%2$s) other.%%1$I', alias, operator), ' and ' order by n) as join_,
           pg_catalog.string_agg(alias, ', ') filter (where equal) as equals, max(alias) filter (where overlap) as range
      from part group by oid, quoted, conname, predicate
)
select own.quoted || '.' || pg_catalog.quote_ident(k.conname) as name,
       'foreign key' as kind,
       pg_catalog.format('select exists (select from only %%s child where %%s and not %%s from %%s %%I.%%I parent where %%s)%%s)',
           own.quoted,
           pg_catalog.string_agg(pg_catalog.format('child.%%I is not null', ca.attname), ' and ' order by column_.ordinality),
           case when not period then 'exists (select'
                else pg_catalog.format('coalesce((select child.%%I operator(pg_catalog.<@) pg_catalog.range_agg(parent.%%I)',
                                       max(ca.attname) filter (where last), max(pa.attname) filter (where last)) end,
           case pc.relkind when 'r' then 'only' else '' end, pn.nspname, pc.relname,
           pg_catalog.string_agg(pg_catalog.format('child.%%I operator(%%s) parent.%%I', ca.attname,
               (select pg_catalog.format('%%I.%%s', on_.nspname, o.oprname)
                  from pg_catalog.pg_operator o join pg_catalog.pg_namespace on_ on on_.oid = o.oprnamespace
                 where o.oid = k.conpfeqop[column_.ordinality]), pa.attname), ' and ' order by column_.ordinality)
               filter (where not (period and last)),
           case when period then ', false)' else '' end) as statement
  from own
  join pg_catalog.pg_constraint k on k.conrelid = own.oid and k.contype = 'f' and k.convalidated
                                 -- A key of a partitioned table has one more for each partition: they promise nothing alone.
                                 and not exists (select from pg_catalog.pg_constraint whole
                                                  where whole.oid = k.conparentid and whole.confrelid <> k.confrelid)
  join pg_catalog.pg_class pc on pc.oid = k.confrelid
  join pg_catalog.pg_namespace pn on pn.oid = pc.relnamespace
  cross join lateral unnest(k.conkey, k.confkey) with ordinality as column_ (child, parent, ordinality)
  join pg_catalog.pg_attribute ca on ca.attrelid = k.conrelid and ca.attnum = column_.child
  join pg_catalog.pg_attribute pa on pa.attrelid = k.confrelid and pa.attnum = column_.parent
  cross join lateral (select coalesce((to_jsonb(k) ->> 'conperiod')::boolean, false) as period,
                             column_.ordinality = pg_catalog.cardinality(k.conkey) as last) as temporal
 group by own.quoted, k.oid, k.conname, k.conpfeqop, pn.nspname, pc.relname, pc.relkind, period
union all
select name, 'exclusion', case
       when not sorted then pg_catalog.format('select exists (select from %%1$s one join %%1$s other on one.ctid < other.ctid and %%2$s)', rows, join_)
       -- Of ranges in their order, any two overlap only if two neighbours do.
       else pg_catalog.format('select exists (select from (select %%1$s as clash from %%2$s one%%3$s window w as (%%4$s%%5$s)) found where clash)',
           coalesce(range || ' operator(pg_catalog.&&) lag(' || range || ') over w', 'lag(true) over w'), rows,
           ' where not pg_catalog.isempty(' || range || ')', 'partition by ' || equals, ' order by ' || range) end
  from excluding
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
