-- Begins the script of every sink on Redis: a call works only where the call before it ended.
--
-- KEYS[1]  where the subscription's place is kept
-- ARGV[1]  the place that this call continues from, or '' for any
-- ARGV[2]  the place behind it, kept if every message is taken
--
-- A script returns nil when every message was taken; 'MOVED', with nothing done, when the place is
-- another one; otherwise a list:
--   the number of the message that ended the script (0 if none), then of every message that was
--   not taken, that one included, its number and either an error or a number that the script
--   explains. A message that follows one that was not taken to the same destination is not tried
--   and not listed, and the place stays.
local pcall = redis.pcall

-- `take_all` hands over the messages and returns the list, or nothing, and whether the place moves
-- although there is a list.
local function from_place(take_all)
  local place = pcall('GET', KEYS[1])
  if type(place) == 'table' then
    return place
  elseif ARGV[1] ~= '' and place ~= ARGV[1] then
    return 'MOVED'
  end
  -- First of all writes, so that what ends every write (memory, replica, permission) ends the
  -- script with nothing done.
  local kept = pcall('SET', KEYS[1], ARGV[2])
  if kept.err then
    return kept
  end
  local report, is_done = take_all()
  if report and not is_done then
    pcall('SET', KEYS[1], place or '')
  end
  return report
end
