-- Removes a consumer; what it holds may be claimed at once.
--
-- KEYS[1] the stream
-- ARGV[1] the group
-- ARGV[2] the consumer
-- ARGV[3] the consumer that has what was given back
-- ARGV[4] milliseconds of silence after which an entry may be claimed
-- ARGV[5] most entries of a step
local held
repeat
  held = redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', ARGV[5], ARGV[2])
  for _, entry in ipairs(held) do
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[3], 0, entry[1], 'IDLE', ARGV[4], 'JUSTID')
    -- An entry that is not in the stream any more is not claimed, and must not be met again.
    local left = redis.call('XPENDING', KEYS[1], ARGV[1], entry[1], entry[1], 1, ARGV[2])
    if #left > 0 then
      redis.call('XACK', KEYS[1], ARGV[1], entry[1])
    end
  end
until #held == 0
redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
return 0
