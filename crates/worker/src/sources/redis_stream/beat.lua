-- Sets back the idle time of what a consumer holds, a piece at a time. What another has claimed meanwhile is not
-- among that. Answers the last entry of the piece, or nothing where it is the last.
--
-- KEYS[1] the stream
-- ARGV[1] the group
-- ARGV[2] the consumer
-- ARGV[3] where the piece begins: - or (ENTRY
-- ARGV[4] most entries of a piece
local most = tonumber(ARGV[4])
local held = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], '+', most, ARGV[2])
if #held == 0 then
  return false
end
local claim = { 'XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0 }
for _, entry in ipairs(held) do
  claim[#claim + 1] = entry[1]
end
claim[#claim + 1] = 'JUSTID'
redis.call(unpack(claim))
if #held < most then
  return false
end
return held[#held][1]
