-- Takes elements for a worker, in the queue's order, and says that it is alive. What a worker holds is
-- therefore never without its name among the workers. Answers the elements, and whether it was known to be alive:
-- else somebody may have given back what it holds.
--
-- KEYS[1] the queue
-- KEYS[2] what the worker holds
-- KEYS[3] there as long as the worker is alive
-- KEYS[4] the workers, each with the second in which it was last heard of
-- ARGV[1] most elements, or 0 to say that it is alive, and no more
-- ARGV[2] the end of the queue that elements are taken from
-- ARGV[3] the end of what is held that they are added to
-- ARGV[4] the worker
-- ARGV[5] milliseconds for which it is alive
-- ARGV[6] bytes after which no further element is taken
local was_alive = redis.call('EXISTS', KEYS[3])
redis.call('SET', KEYS[3], '', 'PX', ARGV[5])
redis.call('ZADD', KEYS[4], redis.call('TIME')[1], ARGV[4])
local taken, bytes, bytes_max = {}, 0, tonumber(ARGV[6])
for number = 1, tonumber(ARGV[1]) do
  local element = redis.call('LMOVE', KEYS[1], KEYS[2], ARGV[2], ARGV[3])
  if not element then
    break
  end
  taken[number], bytes = element, bytes + #element
  if bytes >= bytes_max then
    break
  end
end
return { was_alive, taken }
