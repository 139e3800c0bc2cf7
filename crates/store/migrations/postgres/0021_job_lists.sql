-- Serves lists of jobs, the newest first: each state by itself, and all of them together (`job_list.rs`).
create index job_state on @schema@.job (state, n);
