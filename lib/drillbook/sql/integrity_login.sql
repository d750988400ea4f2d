-- Who we are here.
select pg_catalog.current_database()::text as database, session_user::text as role;
