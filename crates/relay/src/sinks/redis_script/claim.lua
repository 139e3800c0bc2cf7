-- Takes a lane over, before its place is read: every call of an earlier connection that is still
-- on its way will find another epoch and do nothing (FENCED).
--
-- KEYS[1]  the lane's place, as in `place.lua`
-- ARGV[1]  the holder's epoch
-- ARGV[2]  the id of the log
-- ARGV[3]  '1' where a person has said that the place may be of any log: of such a place only the
--          calls are kept, which no call that is on its way may find again
--
-- Returns the connection's epoch, and the calls, the mark and what is missing; or the epoch of a
-- later holder alone; or 'FOREIGN' and the id of another log whose place this is.
local held = redis.call('HMGET', KEYS[1], 'epoch', 'calls', 'mark', 'missing', 'log')
local log = held[5]
if log and log ~= ARGV[2] then
  if ARGV[3] ~= '1' then
    return { 'FOREIGN', log }
  end
  redis.call('HSET', KEYS[1], 'mark', '', 'missing', '')
  held[1], held[3], held[4] = false, false, false
end
local connection = 1
if held[1] then
  local epoch, number = string.match(held[1], '^(%d+):(%d+)$')
  if tonumber(epoch) > tonumber(ARGV[1]) then
    return { held[1] }
  elseif epoch == ARGV[1] then
    connection = number + 1
  end
end
local mine = string.format('%s:%d', ARGV[1], connection)
local calls = held[2] or '0'
redis.call('HSET', KEYS[1], 'log', ARGV[2], 'epoch', mine, 'calls', calls)
return { mine, calls, held[3] or '', held[4] or '' }
