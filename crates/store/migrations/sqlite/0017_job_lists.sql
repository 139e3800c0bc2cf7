-- Serves lists of jobs, the newest first: each state by itself, and all of them together (`job_list.rs`).
create index @schema@_job_state on @schema@_job (state, n);
