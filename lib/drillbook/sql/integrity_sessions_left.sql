-- How many more sessions the role's CONNECTION LIMIT allows now; null: it has none.
select case when r.rolconnlimit >= 0
            then r.rolconnlimit - (select count(*) from pg_catalog.pg_stat_activity where usename = current_user)
       end as sessions
  from pg_catalog.pg_roles r
 where r.rolname = current_user;
