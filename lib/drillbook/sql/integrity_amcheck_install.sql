-- Installs amcheck in this database (a copy that the run made), or brings it to the version that the server ships.
create extension if not exists amcheck;
alter extension amcheck update;
