-- Gives jobs that are active to a worker: those whose lock has run out, and those that are its own already. Follows
-- `queue.lua`. Answers the jobs.
--
-- ARGV[1] the lock
-- ARGV[2] milliseconds for which it holds
-- ARGV[3] the worker, with which its locks begin
-- ARGV[4…] the jobs
local taken = {}
for at = 4, #ARGV do
  local id = ARGV[at]
  local lock = redis.call('GET', named(id) .. ':lock')
  local is_own = lock and string.sub(lock, 1, #ARGV[3] + 1) == ARGV[3] .. ':'
  if (is_own or not lock) and is_active(id) then
    if not lock and redis.call('EXISTS', named(id)) == 1 then
      redis.call('HINCRBY', named(id), 'stc', 1)
      tell('stalled', id)
    end
    taken[#taken + 1] = hold(id, ARGV[1], ARGV[2], ARGV[3])
  end
end
return taken
