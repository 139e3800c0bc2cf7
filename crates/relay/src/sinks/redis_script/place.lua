-- Begins the script of every sink on Redis: a call works only where the call before it ended.
--
-- KEYS[1]  the lane's place: a hash of `epoch`, `calls`, `mark` and `missing`
-- ARGV[1]  the epoch that the lane's connection was given
-- ARGV[2]  the number of calls before this one
-- ARGV[3]  the mark behind the call
-- ARGV[4]  positions of the messages that the mark passes and that are missing, eight bytes
--          each
-- ARGV[5]  positions of the call's own messages, eight bytes each
--
-- A script returns nil when every message was taken; 'FENCED' or 'MOVED', with nothing done, when
-- another connection has the lane, or has come elsewhere; otherwise a list:
--   the number of the message that ended the script (0 if none), then of every message that was
--   not taken, that one included, its number and either an error or a number that the script
--   explains. A message that follows one that was not taken to the same destination is not tried
--   and not listed.
-- Messages that were not taken are missing from then on, and the place moves all the same, further
-- than a call that is on its way expects: that one does nothing.
local pcall, sub = redis.pcall, string.sub

-- More than the calls that are on their way.
local LEAP = 1000

local missing = ARGV[4]

-- Notes that the call's messages from `first` to `last` were not taken.
local function miss(first, last)
  missing = missing .. sub(ARGV[5], 8 * first - 7, 8 * last)
end

-- `take_all` hands over the messages and returns the list, or nothing.
local function from_place(take_all)
  local held = pcall('HMGET', KEYS[1], 'epoch', 'calls')
  if held.err then
    return held
  elseif held[1] ~= ARGV[1] then
    return 'FENCED'
  elseif held[2] ~= ARGV[2] then
    return 'MOVED'
  end
  -- First of all writes, so that what ends every write (memory, replica, permission) ends the
  -- script with nothing done.
  local kept = pcall('HSET', KEYS[1], 'calls', ARGV[2] + 1, 'mark', ARGV[3], 'missing', missing)
  if type(kept) == 'table' then
    return kept
  end
  local report = take_all()
  if missing ~= ARGV[4] then
    pcall('HSET', KEYS[1], 'calls', ARGV[2] + LEAP, 'missing', missing)
  end
  return report
end
