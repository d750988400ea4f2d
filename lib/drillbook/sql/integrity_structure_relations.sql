-- Schemas, extensions, tables, columns, indexes, constraints, statistics and sequences of this database, defined in text
-- that holds no oid. Of a column's options only those that ALTER TABLE can set count: current minors keep entries of the
-- server's own among them (pg_attver). NO INHERIT stands in a constraint's definition; connoinherit differs by how a partition's key
-- came to be, by CREATE TABLE or by ATTACH as pg_dump does. What belongs to an extension is left to the extension; statistics' values and sequences' positions are not structure.
with own as (
    select c.*, pg_catalog.format('%%I.%%I', n.nspname, c.relname) as quoted
      from pg_catalog.pg_class c
      join pg_catalog.pg_namespace n on n.oid = c.relnamespace
     where n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
       and not exists (select from pg_catalog.pg_depend d
                        where d.classid = 'pg_catalog.pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
)
select 'schema' as kind, pg_catalog.quote_ident(n.nspname) as name, pg_catalog.pg_get_userbyid(n.nspowner)::text as definition
  from pg_catalog.pg_namespace n
 where n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
   and not exists (select from pg_catalog.pg_depend d
                    where d.classid = 'pg_catalog.pg_namespace'::regclass and d.objid = n.oid and d.deptype = 'e')
union all
select 'extension', pg_catalog.quote_ident(e.extname),
       pg_catalog.concat_ws(' ', e.extversion, n.nspname, pg_catalog.pg_get_userbyid(e.extowner))
  from pg_catalog.pg_extension e join pg_catalog.pg_namespace n on n.oid = e.extnamespace
union all
select case own.relkind when 'v' then 'view' when 'm' then 'materialised view' when 'f' then 'foreign table'
                        when 'c' then 'composite type' else 'table' end,
       own.quoted,
       pg_catalog.concat_ws(' | ',
           own.relkind, pg_catalog.pg_get_userbyid(own.relowner), own.relpersistence, own.reloptions::text,
           own.relrowsecurity, own.relforcerowsecurity, own.relreplident, am.amname, ts.spcname,
           pg_catalog.pg_get_expr(own.relpartbound, own.oid),
           case when own.relkind = 'p' then pg_catalog.pg_get_partkeydef(own.oid) end,
           (select pg_catalog.string_agg(i.inhparent::pg_catalog.regclass::text, ',' order by i.inhseqno)
              from pg_catalog.pg_inherits i where i.inhrelid = own.oid),
           case when own.relkind in ('v', 'm') then pg_catalog.pg_get_viewdef(own.oid) end)
  from own
  left join pg_catalog.pg_am am on am.oid = own.relam
  left join pg_catalog.pg_tablespace ts on ts.oid = own.reltablespace
 where own.relkind in ('r', 'p', 'v', 'm', 'f', 'c')
union all
select 'column', own.quoted || '.' || pg_catalog.quote_ident(a.attname),
       pg_catalog.concat_ws(' | ',
           pg_catalog.row_number() over (partition by a.attrelid order by a.attnum),
           pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity::text, a.attgenerated::text,
           a.attstorage, a.attcompression::text, a.attislocal, a.attinhcount,
           case when a.attcollation <> 0 then a.attcollation::pg_catalog.regcollation::text end,
           (select pg_catalog.string_agg(o, ',' order by o) from pg_catalog.unnest(a.attoptions) o
             where pg_catalog.split_part(o, '=', 1) in ('n_distinct', 'n_distinct_inherited')), a.attstattarget,
           pg_catalog.pg_get_expr(d.adbin, d.adrelid))
  from own
  join pg_catalog.pg_attribute a on a.attrelid = own.oid and a.attnum > 0 and not a.attisdropped
  left join pg_catalog.pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
 where own.relkind in ('r', 'p', 'v', 'm', 'f', 'c')
union all
select 'index', own.quoted,
       pg_catalog.concat_ws(' | ', pg_catalog.pg_get_indexdef(i.indexrelid), i.indisvalid, i.indisready, i.indisclustered,
                            i.indisreplident, ts.spcname)
  from own
  join pg_catalog.pg_index i on i.indexrelid = own.oid
  left join pg_catalog.pg_tablespace ts on ts.oid = own.reltablespace
union all
select 'constraint',
       coalesce(own.quoted, t.oid::pg_catalog.regtype::text) || '.' || pg_catalog.quote_ident(c.conname),
       pg_catalog.concat_ws(' | ', pg_catalog.pg_get_constraintdef(c.oid), c.convalidated)
  from pg_catalog.pg_constraint c
  left join own on own.oid = c.conrelid
  left join pg_catalog.pg_type t
    on t.oid = c.contypid
   and t.typnamespace in (select oid from pg_catalog.pg_namespace where nspname !~ '^pg_' and nspname <> 'information_schema')
 where own.oid is not null or t.oid is not null
union all
select 'sequence', own.quoted,
       pg_catalog.concat_ws(' | ',
           pg_catalog.pg_get_userbyid(own.relowner), own.relpersistence, pg_catalog.format_type(s.seqtypid, null),
           s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcache, s.seqcycle,
           (select pg_catalog.string_agg(pg_catalog.format('%%s %%s.%%I', d.deptype, d.refobjid::pg_catalog.regclass, a.attname),
                                         ',' order by d.refobjid, d.refobjsubid)
              from pg_catalog.pg_depend d
              join pg_catalog.pg_attribute a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
             where d.classid = 'pg_catalog.pg_class'::regclass and d.objid = own.oid and d.deptype in ('a', 'i')
               and d.refclassid = 'pg_catalog.pg_class'::regclass))
  from own
  join pg_catalog.pg_sequence s on s.seqrelid = own.oid
union all
select 'statistics', pg_catalog.format('%%I.%%I', n.nspname, x.stxname),
       pg_catalog.concat_ws(' | ', pg_catalog.pg_get_statisticsobjdef(x.oid), pg_catalog.pg_get_userbyid(x.stxowner))
  from pg_catalog.pg_statistic_ext x join pg_catalog.pg_namespace n on n.oid = x.stxnamespace;
