-- Every sequence that feeds an integer column (it is owned by it, or stands in its default), with the statement that
-- says how many values the sequence's next one is short of being new: 0 or less is right. A cycling sequence is meant to return.
with feeds as (
    select d.objid as sequence, d.refobjid as relation, d.refobjsubid as part
      from pg_catalog.pg_depend d
     where d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
       and d.deptype in ('a', 'i') and d.refobjsubid > 0
     union
    select d.refobjid, f.adrelid, f.adnum
      from pg_catalog.pg_attrdef f
      join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass and d.objid = f.oid
     where d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.deptype = 'n'
)
select pg_catalog.format('%%I.%%I', sn.nspname, sc.relname) as sequence,
       pg_catalog.format('%%I.%%I.%%I', tn.nspname, tc.relname, a.attname) as fed,
       case when s.seqincrement > 0
            then pg_catalog.format('select (select max(%%I)::numeric from %%I.%%I) - (last_value + case when is_called then %%s else 0 end) + 1 from %%I.%%I',
                                   a.attname, tn.nspname, tc.relname, s.seqincrement, sn.nspname, sc.relname)
            else pg_catalog.format('select (last_value + case when is_called then %%s else 0 end) - (select min(%%I)::numeric from %%I.%%I) + 1 from %%I.%%I',
                                   s.seqincrement, a.attname, tn.nspname, tc.relname, sn.nspname, sc.relname)
       end as statement
  from feeds
  join pg_catalog.pg_sequence s on s.seqrelid = feeds.sequence and not s.seqcycle
  join pg_catalog.pg_class sc on sc.oid = s.seqrelid
  join pg_catalog.pg_namespace sn on sn.oid = sc.relnamespace
  join pg_catalog.pg_class tc on tc.oid = feeds.relation and tc.relkind in ('r', 'p')
  join pg_catalog.pg_namespace tn on tn.oid = tc.relnamespace
  join pg_catalog.pg_attribute a on a.attrelid = tc.oid and a.attnum = feeds.part and not a.attisdropped
 where a.atttypid in ('int2'::pg_catalog.regtype, 'int4'::pg_catalog.regtype, 'int8'::pg_catalog.regtype, 'numeric'::pg_catalog.regtype)
   and tc.relpersistence <> 't'
 order by 1, 2;
