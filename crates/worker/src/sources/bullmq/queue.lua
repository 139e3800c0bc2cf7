-- What every script of this source begins with: the queue, as its `meta` describes it. Answers
-- { 'MISFIT', version }, with nothing done, where it is of a version of BullMQ that is not known here.
--
-- KEYS[1] the queue, as BullMQ qualifies its name: prefix and name. The names of all its keys begin so, which puts
--         them in one slot where the prefix holds a hash tag.
--
-- A job is a hash with its data, and its id stands in one place: `wait`, `prioritized` or `delayed`, then `active`
-- with a lock for as long as a worker has it, then `completed` or `failed`.
-- (https://docs.bullmq.io/guide/architecture)

-- Length that BullMQ gives a stream of events where nobody has set one.
local EVENTS_MAX = 10000
-- Delayed jobs are ordered by their time, and by these many numbers within a millisecond.
local PER_MILLISECOND = 4096
-- Prioritised jobs are ordered by their priority, and then by a count of this many.
local PER_PRIORITY = 4294967296

local function named(part)
  return KEYS[1] .. ':' .. part
end

-- The major version; nothing for a version that is not known. No version stands there before a `Queue` has been made.
local function known_major(version)
  if not version then
    return 0
  end
  local major, minor = string.match(version, '^bullmq:(%d+)%.(%d+)%.')
  -- 5.10 brought the order of delayed jobs and limits of whole queues.
  if major == '6' or major == '5' and tonumber(minor) >= 10 then
    return tonumber(major)
  end
end

local meta = redis.call('HMGET', named('meta'), 'version', 'paused', 'concurrency', 'max', 'duration',
  'opts.maxLenEvents')
local major = known_major(meta[1])
if not major then
  return { 'MISFIT', meta[1] }
end
local is_paused = meta[2] and true
local concurrency, rate, rate_ms = tonumber(meta[3]), tonumber(meta[4]), tonumber(meta[5])
local events_max = meta[6] or EVENTS_MAX
local active, prioritized = named('active'), named('prioritized')
-- Up to BullMQ 5 a paused queue keeps its jobs in `paused`, which the next resume makes `wait`.
local wait = named(is_paused and major < 6 and 'paused' or 'wait')

local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)

local function tell(event, id, ...)
  if not meta[6] then
    redis.call('HSET', named('meta'), 'opts.maxLenEvents', events_max)
    meta[6] = events_max
  end
  redis.call('XADD', named('events'), 'MAXLEN', '~', events_max, '*', 'event', event, 'jobId', id, ...)
end

local function is_full()
  return concurrency and redis.call('LLEN', active) >= concurrency
end

-- Wakes a worker of BullMQ that waits for jobs, where one could take one.
local function mark()
  if not is_paused and not is_full() then
    redis.call('ZADD', named('marker'), 0, '0')
  end
end

local function is_active(id)
  -- Those that came first, which are the first to leave, stand at the end.
  return redis.call('LPOS', active, id, 'RANK', -1)
end

-- Gives a job that is active to a worker, and answers what is to be read of it; nothing if it was removed.
local function hold(id, lock, lease_ms, worker)
  local job = named(id)
  if redis.call('EXISTS', job) == 0 then
    redis.call('LREM', active, -1, id)
    return nil
  end
  redis.call('SET', job .. ':lock', lock, 'PX', lease_ms)
  redis.call('HSET', job, 'processedOn', now, 'pb', worker)
  redis.call('HINCRBY', job, 'ats', 1)
  tell('active', id, 'prev', 'waiting')
  return { id, unpack(redis.call('HMGET', job, 'name', 'data', 'timestamp', 'opts', 'parentKey', 'rjk', 'defa'), 1, 7) }
end
