-- Gives all that a worker holds back to the queue: the newest first, so that the oldest is the next to be
-- taken. Does nothing for one that is alive, unless it is the one that asks.
--
-- KEYS[1] the queue
-- KEYS[2] what the worker holds
-- KEYS[3] there as long as the worker is alive
-- KEYS[4] the workers, each with the second in which it was last heard of
-- ARGV[1] the worker
-- ARGV[2] the end of the queue that elements are taken from
-- ARGV[3] the end of what is held that they were added to
-- ARGV[4] seconds after which a silent worker is forgotten
-- ARGV[5] 1 if the worker itself asks
if ARGV[5] == '1' then
  redis.call('DEL', KEYS[3])
elseif redis.call('EXISTS', KEYS[3]) == 1 then
  return 0
end
local count = 0
while redis.call('LMOVE', KEYS[2], KEYS[1], ARGV[3], ARGV[2]) do
  count = count + 1
end
-- A call that it sent before it fell silent may still arrive: until none can, its name stays.
local heard_of = redis.call('ZSCORE', KEYS[4], ARGV[1])
if heard_of and redis.call('TIME')[1] - heard_of >= tonumber(ARGV[4]) then
  redis.call('ZREM', KEYS[4], ARGV[1])
end
return count
