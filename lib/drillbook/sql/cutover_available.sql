-- The versions of extensions that this server's image has, and which one is made by default. Readable by every role.
select v.name::text as name, v.version, v.version = a.default_version as is_default
  from pg_catalog.pg_available_extension_versions v join pg_catalog.pg_available_extensions a on a.name = v.name
 order by 1, 2;
