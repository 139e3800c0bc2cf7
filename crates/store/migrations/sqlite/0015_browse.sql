-- Indexes for people who look for messages (`browse`). Each ends with the position, which is the row's number.

create index @schema@_log_id on @schema@_log (id);
create index @schema@_log_topic on @schema@_log (topic);
create index @schema@_log_key on @schema@_log (key) where key is not null;
create index @schema@_log_correlation_id on @schema@_log (correlation_id) where correlation_id is not null;

-- What was set aside, by position and by id.
create index @schema@_failed_message_dead_position on @schema@_failed_message (position) where due is null;
create index @schema@_failed_message_parked_position on @schema@_failed_message (position) where due is not null;
create index @schema@_failed_message_id on @schema@_failed_message (id);
