-- Keeps jobs that a worker has in hand: their locks hold on. One that has run out is taken again, unless somebody has
-- taken the job meanwhile. Follows `queue.lua`.
--
-- ARGV[1] milliseconds for which locks hold
-- ARGV[2…] of each job: its id, and its lock
for at = 2, #ARGV, 2 do
  local id, name = ARGV[at], named(ARGV[at]) .. ':lock'
  local lock = redis.call('GET', name)
  if lock == ARGV[at + 1] or not lock and is_active(id) then
    redis.call('SET', name, ARGV[at + 1], 'PX', ARGV[1])
    redis.call('SREM', named('stalled'), id)
  end
end
return 0
