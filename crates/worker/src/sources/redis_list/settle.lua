-- Settles elements that a worker holds. What it does not hold (any more) is left alone. An element is
-- written elsewhere before it goes from here: a write that fails ends the script.
--
-- KEYS[1] the queue
-- KEYS[2] what the worker holds
-- KEYS[3] the dead letters, oldest first
-- ARGV[1] RPUSH or LPUSH: gives an element back to the end of the queue that elements are taken from
-- ARGV[2] 1 or -1: from which end of what is held to look, that of the oldest
-- ARGV[3…] of each element: done, again or bury; its bytes; its dead letter
local side = tonumber(ARGV[2])
for at = 3, #ARGV, 3 do
  local fate, element = ARGV[at], ARGV[at + 1]
  local is_held = fate == 'done' or redis.call('LPOS', KEYS[2], element, 'RANK', side)
  if is_held and fate == 'again' then
    redis.call(ARGV[1], KEYS[1], element)
  elseif is_held and fate == 'bury' then
    redis.call('RPUSH', KEYS[3], ARGV[at + 2])
  end
  if is_held then
    redis.call('LREM', KEYS[2], side, element)
  end
end
return 0
