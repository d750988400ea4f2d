-- What the planner reckons with, as this session has it; a plan on one server says nothing about another whose settings differ.
select name, setting || coalesce(unit, '') as setting
  from pg_catalog.pg_settings
 where category like 'Query Tuning%%' or name in ('work_mem', 'hash_mem_multiplier', 'shared_buffers', 'max_parallel_workers',
       'max_parallel_workers_per_gather', 'max_worker_processes', 'temp_buffers', 'jit')
 order by name
