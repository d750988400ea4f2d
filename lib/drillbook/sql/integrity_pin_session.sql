-- Fixes what changes the text of a value or of a definition, for this transaction only. Being its first query, it also
-- takes the REPEATABLE READ snapshot.
-- row_security = off makes a filtered read an error (42501) instead of a silent subset of the rows.
select pg_catalog.set_config('search_path', '', true),
       pg_catalog.set_config('datestyle', 'ISO, YMD', true),
       pg_catalog.set_config('intervalstyle', 'postgres', true),
       pg_catalog.set_config('timezone', 'UTC', true),
       pg_catalog.set_config('extra_float_digits', '1', true),
       pg_catalog.set_config('bytea_output', 'hex', true),
       pg_catalog.set_config('xmlbinary', 'base64', true),
       pg_catalog.set_config('lc_monetary', 'C', true),
       pg_catalog.set_config('quote_all_identifiers', 'off', true),
       pg_catalog.set_config('row_security', 'off', true);
