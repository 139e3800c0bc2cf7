-- Takes jobs for a worker: those that wait, and then those with a priority. Delayed ones that are due come to them
-- first. A queue that is paused, or at one of its limits, gives none. Follows `queue.lua`. Answers the jobs; after
-- how many milliseconds more may be there, or -1; and the last event, after which to listen for more.
--
-- ARGV[1] most jobs
-- ARGV[2] the lock
-- ARGV[3] milliseconds for which it holds
-- ARGV[4] the worker
-- ARGV[5] bytes after which no further job is taken
--
-- Most delayed jobs that come due in one step.
local DUE_MAX = 500

local function come_due(id)
  local job = named(id)
  local priority = tonumber(redis.call('HGET', job, 'priority')) or 0
  if priority > 0 then
    local count = redis.call('INCR', named('pc'))
    redis.call('ZADD', prioritized, priority * PER_PRIORITY + count % PER_PRIORITY, id)
  else
    redis.call('LPUSH', wait, id)
  end
  -- It stays here until it stands elsewhere.
  redis.call('ZREM', named('delayed'), id)
  if redis.call('EXISTS', job) == 1 then
    redis.call('HSET', job, 'delay', 0)
  end
  tell('waiting', id, 'prev', 'delayed')
end

-- Answers after how many milliseconds the next one is due, or -1.
local function promote()
  local last = (now + 1) * PER_MILLISECOND - 1
  local due = redis.call('ZRANGEBYSCORE', named('delayed'), 0, last, 'LIMIT', 0, DUE_MAX)
  for _, id in ipairs(due) do
    come_due(id)
  end
  if #due > 0 then
    mark()
  end
  local next = redis.call('ZRANGE', named('delayed'), 0, 0, 'WITHSCORES')[2]
  return next and math.max(math.ceil(next / PER_MILLISECOND) - now, 0) or -1
end

-- How many the queue's limits leave, and after how many milliseconds it may be more.
local function room(most, due)
  if is_paused then
    return 0, -1
  end
  if concurrency then
    most = math.max(math.min(most, concurrency - redis.call('LLEN', active)), 0)
  end
  if not rate then
    return most, due
  end
  local left = redis.call('PTTL', named('limiter'))
  local used = left > 0 and tonumber(redis.call('GET', named('limiter'))) or 0
  if used >= rate then
    return 0, left
  end
  return math.min(most, rate - used), due
end

local function count_at_limiter(taken)
  if rate and taken > 0 then
    redis.call('INCRBY', named('limiter'), taken)
    if redis.call('PTTL', named('limiter')) < 0 then
      redis.call('PEXPIRE', named('limiter'), math.floor(math.abs(rate_ms or 1)))
    end
  end
end

local function next_id()
  local id = redis.call('LMOVE', wait, active, 'RIGHT', 'LEFT')
  if not id then
    id = redis.call('ZPOPMIN', prioritized)[1]
    if id then
      redis.call('LPUSH', active, id)
    else
      redis.call('DEL', named('pc'))
    end
  end
  return id
end

local most, pause_ms = room(tonumber(ARGV[1]), promote())
local taken, bytes, bytes_max = {}, 0, tonumber(ARGV[5])
for _ = 1, most do
  local id = next_id()
  if not id then
    break
  end
  local job = hold(id, ARGV[2], ARGV[3], ARGV[4])
  if job then
    taken[#taken + 1], bytes = job, bytes + #(job[3] or '')
  else
    pause_ms = 0
  end
  if bytes >= bytes_max then
    break
  end
end
count_at_limiter(#taken)
local last = redis.call('XREVRANGE', named('events'), '+', '-', 'COUNT', 1)[1]
return { taken, pause_ms, last and last[1] or '0-0' }
