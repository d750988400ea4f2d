-- Whether a transaction is committed here: null if it is too old to tell. An id that is not there yet is an error (22023
-- on a server that has never seen it): it was given out after the end of this copy's WAL.
select pg_catalog.pg_xact_status(%(xid)s::text::pg_catalog.xid8) as status;
