-- Functions, triggers, rules, row security policies, event triggers, types, operators, casts, publications, subscriptions
-- and foreign servers of this database, in text that holds no oid and no secret (connection strings and options stay out).
-- What belongs to an extension is left to the extension.
with own_schema as (
    select oid, nspname from pg_catalog.pg_namespace where nspname !~ '^pg_' and nspname <> 'information_schema'
), member as (
    select classid, objid from pg_catalog.pg_depend where deptype = 'e'
)
select 'function' as kind,
       pg_catalog.format('%%I.%%I(%%s)', n.nspname, p.proname, pg_catalog.pg_get_function_identity_arguments(p.oid)) as name,
       pg_catalog.concat_ws(' | ',
           p.prokind, pg_catalog.pg_get_userbyid(p.proowner),
           case when p.prokind = 'a' then (pg_catalog.to_jsonb(a) - 'id')::text else pg_catalog.pg_get_functiondef(p.oid) end) as definition
  from pg_catalog.pg_proc p
  join own_schema n on n.oid = p.pronamespace
  left join (select aggfnoid::oid as id, aggkind, aggnumdirectargs, aggtransfn::text, aggfinalfn::text, aggcombinefn::text,
                    aggmtransfn::text, aggminvtransfn::text, aggmfinalfn::text, aggsortop::pg_catalog.regoperator::text,
                    aggtranstype::pg_catalog.regtype::text, agginitval, aggminitval
               from pg_catalog.pg_aggregate) a on a.id = p.oid and p.prokind = 'a'
 where not exists (select from member where classid = 'pg_catalog.pg_proc'::regclass and objid = p.oid)
union all
select 'trigger', pg_catalog.format('%%I.%%I.%%I', n.nspname, c.relname, t.tgname),
       pg_catalog.concat_ws(' | ', pg_catalog.pg_get_triggerdef(t.oid), t.tgenabled)
  from pg_catalog.pg_trigger t
  join pg_catalog.pg_class c on c.oid = t.tgrelid
  join own_schema n on n.oid = c.relnamespace
 where not t.tgisinternal
union all
select 'rule', pg_catalog.format('%%I.%%I.%%I', n.nspname, c.relname, r.rulename),
       pg_catalog.concat_ws(' | ', pg_catalog.pg_get_ruledef(r.oid), r.ev_enabled)
  from pg_catalog.pg_rewrite r
  join pg_catalog.pg_class c on c.oid = r.ev_class
  join own_schema n on n.oid = c.relnamespace
 where r.rulename <> '_RETURN'
union all
select 'policy', pg_catalog.format('%%I.%%I.%%I', p.schemaname, p.tablename, p.policyname), pg_catalog.to_jsonb(p)::text
  from pg_catalog.pg_policies p
union all
select 'event trigger', pg_catalog.quote_ident(e.evtname),
       pg_catalog.concat_ws(' | ', e.evtevent, pg_catalog.pg_get_userbyid(e.evtowner), e.evtfoid::pg_catalog.regproc, e.evtenabled, e.evttags::text)
  from pg_catalog.pg_event_trigger e
 where not exists (select from member where classid = 'pg_catalog.pg_event_trigger'::regclass and objid = e.oid)
union all
select 'type', pg_catalog.format('%%I.%%I', n.nspname, t.typname),
       pg_catalog.concat_ws(' | ',
           t.typtype, pg_catalog.pg_get_userbyid(t.typowner), pg_catalog.format_type(t.typbasetype, t.typtypmod), t.typnotnull, t.typdefault,
           case when t.typcollation <> 0 then t.typcollation::pg_catalog.regcollation::text end,
           (select pg_catalog.string_agg(e.enumlabel::text, ',' order by e.enumsortorder) from pg_catalog.pg_enum e where e.enumtypid = t.oid),
           (select pg_catalog.concat_ws(' ', r.rngsubtype::pg_catalog.regtype, r.rngsubdiff, r.rngcanonical)
              from pg_catalog.pg_range r where r.rngtypid = t.oid))
  from pg_catalog.pg_type t
  join own_schema n on n.oid = t.typnamespace
 where t.typtype in ('b', 'd', 'e', 'r') and t.typelem = 0
   and not exists (select from member where classid = 'pg_catalog.pg_type'::regclass and objid = t.oid)
union all
select 'operator', o.oid::pg_catalog.regoperator::text,
       pg_catalog.concat_ws(' | ', o.oprcode, pg_catalog.pg_get_userbyid(o.oprowner), o.oprcanmerge, o.oprcanhash, o.oprrest, o.oprjoin)
  from pg_catalog.pg_operator o
  join own_schema n on n.oid = o.oprnamespace
 where not exists (select from member where classid = 'pg_catalog.pg_operator'::regclass and objid = o.oid)
union all
select 'cast', pg_catalog.format('%%s as %%s', c.castsource::pg_catalog.regtype, c.casttarget::pg_catalog.regtype),
       pg_catalog.concat_ws(' | ', c.castfunc::pg_catalog.regprocedure, c.castcontext, c.castmethod)
  from pg_catalog.pg_cast c
 where c.oid >= 16384  -- below are initdb's own
   and not exists (select from member where classid = 'pg_catalog.pg_cast'::regclass and objid = c.oid)
union all
select 'collation', pg_catalog.format('%%I.%%I', n.nspname, c.collname),
       (pg_catalog.to_jsonb(c) - '{oid,collnamespace,collowner,collversion,collencoding}'::text[])::text
  from pg_catalog.pg_collation c
  join own_schema n on n.oid = c.collnamespace
 where not exists (select from member where classid = 'pg_catalog.pg_collation'::regclass and objid = c.oid)
union all
select 'text search configuration', pg_catalog.format('%%I.%%I', n.nspname, c.cfgname),
       pg_catalog.concat_ws(' | ', pg_catalog.pg_get_userbyid(c.cfgowner),
           (select pg_catalog.string_agg(pg_catalog.concat_ws(':', m.maptokentype, m.mapseqno, m.mapdict::pg_catalog.regdictionary), ','
                                         order by m.maptokentype, m.mapseqno)
              from pg_catalog.pg_ts_config_map m where m.mapcfg = c.oid))
  from pg_catalog.pg_ts_config c
  join own_schema n on n.oid = c.cfgnamespace
union all
select 'publication', pg_catalog.quote_ident(p.pubname),
       pg_catalog.concat_ws(' | ', pg_catalog.pg_get_userbyid(p.pubowner),
           (pg_catalog.to_jsonb(p) - '{oid,pubname,pubowner}'::text[])::text,
           (select pg_catalog.string_agg(pg_catalog.to_jsonb(t)::text, ',' order by t.schemaname, t.tablename)
              from pg_catalog.pg_publication_tables t where t.pubname = p.pubname))
  from pg_catalog.pg_publication p
union all
select 'subscription', pg_catalog.quote_ident(s.subname),
       pg_catalog.concat_ws(' | ', pg_catalog.pg_get_userbyid(s.subowner), s.subenabled, s.subslotname, s.subpublications::text)
  from pg_catalog.pg_subscription s
 where s.subdbid = (select oid from pg_catalog.pg_database where datname = pg_catalog.current_database())
union all
select 'foreign server', pg_catalog.quote_ident(s.srvname),
       pg_catalog.concat_ws(' | ', pg_catalog.pg_get_userbyid(s.srvowner), w.fdwname, s.srvtype, s.srvversion)
  from pg_catalog.pg_foreign_server s join pg_catalog.pg_foreign_data_wrapper w on w.oid = s.srvfdw;
