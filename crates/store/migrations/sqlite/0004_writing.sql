-- What an enqueue may ask for beyond a row of the log: to happen once. Times are microseconds.

-- Which message a token stands for, for as long as tokens are kept.
create table @schema@_token (
  token text primary key,
  message_id blob not null,
  created_at integer not null
    default (cast(round((julianday('now') - 2440587.5) * 86400000.0) as integer) * 1000),
  constraint token_is_bounded check (length(cast(token as blob)) between 1 and 256),
  constraint id_is_a_uuid check (length(message_id) = 16)
) strict, without rowid;
-- Serves the sweep.
create index @schema@_token_created_at on @schema@_token (created_at);

-- Holds no row and takes what has a token: one statement that writes both tables or neither, also
-- outside a transaction.
create view @schema@_enqueue as
select null as id, null as topic, null as key, null as payload, null as content_type,
       null as headers, null as correlation_id, null as token
where false;

create trigger @schema@_enqueue_once instead of insert on @schema@_enqueue
when new.token is null or not exists (select 1 from @schema@_token t where t.token = new.token)
begin
  insert into @schema@_log (id, topic, key, payload, content_type, headers, correlation_id)
  values (new.id, new.topic, new.key, coalesce(new.payload, x''), new.content_type,
          coalesce(new.headers, '{}'), new.correlation_id);
  insert into @schema@_token (token, message_id)
  select new.token, new.id where new.token is not null;
end;
