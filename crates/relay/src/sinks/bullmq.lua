-- Adds messages to BullMQ queues as jobs, in order, until something stands in the way. Follows
-- `place.lua`, which says what KEYS[1], ARGV[1] to ARGV[5] and the answer are; besides those it
-- answers { 'MISFIT', queue, version }, with nothing done, where a queue is of a version of BullMQ
-- that is not known here.
--
-- KEYS[2…] the queues, each once, as BullMQ qualifies their names: prefix and name. The names of all
--          keys of a queue begin so, which puts them in one slot where the prefix holds a hash tag.
-- ARGV[6]  options of a job, JSON up to its id
-- ARGV[7]  priority of a job, or 0
-- ARGV[8]  the plan, three bytes a message: 1 where it has options of its own, number of its queue
--          in KEYS (16 bits)
-- ARGV[9…] the values of all messages, one message after the other: options, priority and delay if
--          they are its own, then id, name, data and time
--
-- What a job is made of: a hash with its data; its id in `wait`, `prioritized` or `delayed`; a
-- `marker` that wakes a worker which waits; and events. (https://docs.bullmq.io/guide/architecture)
local byte, find, match, min = string.byte, string.find, string.match, math.min

-- Length that BullMQ gives a stream of events where nobody has set one.
local EVENTS_MAX = 10000
-- Delayed jobs are ordered by their time, and by these many numbers within a millisecond.
local PER_MILLISECOND = 4096
-- Prioritised jobs are ordered by their priority, and then by a count of this many.
local PER_PRIORITY = 4294967296

local fault

-- Runs a command, unless one before it has failed since `fault` was cleared.
local function try(...)
  if fault then
    return nil
  end
  local reply = pcall(...)
  if type(reply) == 'table' and reply.err then
    fault = reply.err
    return nil
  end
  return reply
end

-- Whether an error is about one queue. Any other one (memory, replica, permission, cluster …) would
-- meet all that follow too.
local function is_about_the_queue(error)
  return find(error, 'WRONGTYPE', 1, true)
    or find(error, 'not an integer', 1, true)
    or find(error, 'would overflow', 1, true)
    or find(error, 'last possible ID', 1, true)
end

-- The major version; nothing for a version that is not known. No version stands there before a
-- `Queue` has been made: workers and the scripts of BullMQ write none.
local function known_major(version)
  if not version then
    return 0
  end
  local major, minor = match(version, '^bullmq:(%d+)%.(%d+)%.')
  -- 5.10 brought the order of delayed jobs and limits of whole queues.
  if major == '6' or major == '5' and tonumber(minor) >= 10 then
    return tonumber(major)
  end
end

-- A queue as its `meta` describes it; nothing, and its version, where that is not known.
local function look_at(name)
  fault = nil
  local queue = {
    job = name .. ':',
    meta = name .. ':meta',
    events = name .. ':events',
    marker = name .. ':marker',
    delayed = name .. ':delayed',
    prioritized = name .. ':prioritized',
    count = name .. ':pc',
  }
  local meta = try('HMGET', queue.meta, 'version', 'paused', 'concurrency', 'opts.maxLenEvents')
  if meta then
    local major = known_major(meta[1])
    if not major then
      return nil, meta[1]
    end
    local limit = meta[3] and tonumber(meta[3])
    local active = limit and try('LLEN', name .. ':active')
    -- A paused queue keeps its jobs in `paused`, which the next resume makes `wait`; it would drop a
    -- `wait` that is there. From 6 on they stay in `wait`.
    queue.list = name .. (meta[2] and major < 6 and ':paused' or ':wait')
    queue.is_quiet = meta[2] or active and active >= limit
    queue.events_max = meta[4] or EVENTS_MAX
  end
  queue.fault = fault
  return queue
end

-- Before the first job, although the length is there mostly: a permission that is missing, or memory,
-- ends the call before a job is half there.
local function open(queue)
  if not queue.is_open then
    try('HSET', queue.meta, 'opts.maxLenEvents', queue.events_max)
    queue.is_open = not fault
  end
end

local function tell(queue, event, id, ...)
  try('XADD', queue.events, 'MAXLEN', '~', queue.events_max, '*', 'event', event, 'jobId', id, ...)
end

-- Wakes a worker that waits for jobs. Once a call: nothing takes the marker away meanwhile.
local function mark(queue)
  if not queue.is_quiet then
    try('ZADD', queue.marker, 0, '0')
    queue.is_quiet = true
  end
end

-- The next score among the jobs that are due in the same millisecond.
local function score_at(queue, due)
  local first = due * PER_MILLISECOND
  local last = first + PER_MILLISECOND - 1
  local newest = queue.due == due and queue.score
  if not newest then
    local reply = try('ZREVRANGEBYSCORE', queue.delayed, last, first, 'WITHSCORES', 'LIMIT', 0, 1)
    newest = reply and reply[2] or first - 1
  end
  queue.due, queue.score = due, min(newest + 1, last)
  return queue.score
end

-- Tells workers, also those of a paused queue, when the earliest job is due.
local function mark_due(queue, score)
  if not queue.earliest then
    local reply = try('ZRANGE', queue.delayed, 0, 0, 'WITHSCORES')
    queue.earliest = tonumber(reply and reply[2] or score)
  elseif queue.earliest <= score then
    return
  end
  queue.earliest = min(queue.earliest, score)
  try('ZADD', queue.marker, queue.earliest / PER_MILLISECOND, '1')
end

local function delay_until(queue, due, id)
  local score = score_at(queue, due)
  mark_due(queue, score)
  tell(queue, 'delayed', id, 'delay', due)
  try('ZADD', queue.delayed, score, id)
end

local function prioritize(queue, priority, id)
  local count = try('INCR', queue.count) or 0
  mark(queue)
  tell(queue, 'waiting', id)
  try('ZADD', queue.prioritized, priority * PER_PRIORITY + count % PER_PRIORITY, id)
end

local function append(queue, id)
  mark(queue)
  tell(queue, 'waiting', id)
  try('LPUSH', queue.list, id)
end

-- Returns nothing, or why the job was not added. The hash comes last, when nothing that could fail is
-- left to do: whoever tries again and finds it takes the job for added.
local function add(queue, options, priority, delay, id, name, data, time)
  fault = queue.fault
  open(queue)
  local job = queue.job .. id
  if try('EXISTS', job) == 1 then
    tell(queue, 'duplicated', id)
    return fault
  end
  try('XADD', queue.events, '*', 'event', 'added', 'jobId', id, 'name', name)
  if delay > 0 then
    delay_until(queue, time + delay, id)
  elseif priority > 0 then
    prioritize(queue, priority, id)
  else
    append(queue, id)
  end
  try('HSET', job, 'name', name, 'data', data, 'opts', options .. id .. '"}', 'timestamp', time,
    'delay', delay, 'priority', priority)
  return fault
end

local function add_all(queues, plan)
  local failed, report, value = {}, nil, 9
  for number = 1, #plan / 3 do
    local has_own, high, low = byte(plan, 3 * number - 2, 3 * number)
    local at = high * 256 + low + 2
    local options, priority, delay = ARGV[6], ARGV[7], '0'
    if has_own == 1 then
      options, priority, delay = ARGV[value], ARGV[value + 1], ARGV[value + 2]
      value = value + 3
    end
    local first = value
    value = value + 4
    if failed[at] then
      miss(number, number)
    else
      local why = add(queues[at], options, tonumber(priority), tonumber(delay), ARGV[first],
        ARGV[first + 1], ARGV[first + 2], ARGV[first + 3])
      if why then
        failed[at], report = true, report or { 0 }
        report[#report + 1] = number
        report[#report + 1] = why
        if not is_about_the_queue(why) then
          report[1] = number
          miss(number, #plan / 3)
          return report
        end
        miss(number, number)
      end
    end
  end
  return report
end

local queues = {}
for at = 2, #KEYS do
  local queue, version = look_at(KEYS[at])
  if not queue then
    return { 'MISFIT', KEYS[at], version }
  end
  queues[at] = queue
end
return from_place(function()
  return add_all(queues, ARGV[8])
end)
