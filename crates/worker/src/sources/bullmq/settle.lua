-- Settles jobs that a worker holds. One whose lock is another's is left alone; so is one that is not active any more.
-- A job is written elsewhere before it goes from there: a write that fails ends the script. Follows `queue.lua`.
--
-- ARGV[1…] of each job: its id, its lock, done, again or bury, and the reason
--
-- Most finished jobs that are removed for one that is kept.
local REMOVED_MAX = 1000

local function leave(id)
  redis.call('LREM', active, -1, id)
  redis.call('SREM', named('stalled'), id)
  redis.call('DEL', named(id) .. ':lock')
end

local function remove(id)
  local job = named(id)
  redis.call('DEL', job, job .. ':logs', job .. ':dependencies', job .. ':processed', job .. ':failed',
    job .. ':unsuccessful')
end

-- How many finished jobs are kept, and for how many seconds, as an option of the job says; nothing for all.
local function kept(options, name)
  local is_read, read = pcall(cjson.decode, options or '')
  local keep = is_read and type(read) == 'table' and read[name]
  if keep == true then
    return 0
  elseif type(keep) == 'table' then
    return tonumber(keep.count), tonumber(keep.age)
  end
  return type(keep) == 'number' and keep or nil
end

local function remove_oldest(finished, count, age)
  local old = {}
  if age then
    old = redis.call('ZRANGEBYSCORE', finished, '-inf', now - age * 1000, 'LIMIT', 0, REMOVED_MAX)
  end
  for _, id in ipairs(old) do
    remove(id)
    redis.call('ZREM', finished, id)
  end
  old = {}
  if count and count > 0 then
    count = math.floor(count)
    old = redis.call('ZREVRANGE', finished, count, count + REMOVED_MAX - 1)
  end
  for _, id in ipairs(old) do
    remove(id)
    redis.call('ZREM', finished, id)
  end
end

-- Others with its deduplication id may be added again.
local function allow_again(id, deduplication)
  local key = deduplication and named('de:' .. deduplication)
  if key and redis.call('PTTL', key) == -1 and redis.call('GET', key) == id then
    redis.call('DEL', key)
  end
end

local function finish(id, state, option, field, value)
  local job, finished = named(id), named(state)
  local known = redis.call('HMGET', job, 'opts', 'deid')
  local count, age = kept(known[1], option)
  local attempts = redis.call('HINCRBY', job, 'atm', 1)
  if count ~= 0 then
    redis.call('HSET', job, field, value, 'finishedOn', now)
    redis.call('HDEL', job, 'defa')
    redis.call('ZADD', finished, now, id)
  end
  tell(state, id, field, value, 'prev', 'active')
  if state == 'failed' then
    tell('retries-exhausted', id, 'attemptsMade', attempts)
  end
  allow_again(id, known[2])
  leave(id)
  if count == 0 then
    remove(id)
  end
  remove_oldest(finished, count, age)
end

local function give_back(id)
  local priority = tonumber(redis.call('HGET', named(id), 'priority')) or 0
  if priority > 0 then
    -- Before all others of its priority.
    redis.call('ZADD', prioritized, priority * PER_PRIORITY, id)
  else
    redis.call('RPUSH', wait, id)
  end
  tell('waiting', id, 'prev', 'active')
  leave(id)
end

local function settle(id, fate, reason)
  if redis.call('EXISTS', named(id)) == 0 then
    leave(id)
  elseif fate == 'done' then
    finish(id, 'completed', 'removeOnComplete', 'returnvalue', 'null')
  elseif fate == 'bury' then
    finish(id, 'failed', 'removeOnFail', 'failedReason', reason)
  else
    give_back(id)
  end
end

local is_any = false
for at = 1, #ARGV, 4 do
  local id = ARGV[at]
  local lock = redis.call('GET', named(id) .. ':lock')
  if (not lock or lock == ARGV[at + 1]) and is_active(id) then
    settle(id, ARGV[at + 2], ARGV[at + 3])
    is_any = true
  end
end
if is_any then
  local waiting = redis.call('LLEN', wait) + redis.call('ZCARD', prioritized)
  if waiting > 0 then
    mark()
  elseif redis.call('LLEN', active) == 0 then
    redis.call('XADD', named('events'), 'MAXLEN', '~', events_max, '*', 'event', 'drained')
  end
end
return 0
