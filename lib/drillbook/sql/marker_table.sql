-- Whether any run has written markers here: their table is made by the first.
select pg_catalog.to_regclass('drillbook.marker') is not null as there;
