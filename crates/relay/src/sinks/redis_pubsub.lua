-- Publishes messages to channels, in order, until something stands in the way. Follows
-- `place.lua`, which says what KEYS[1], ARGV[1], ARGV[2] and the answer are.
--
-- ARGV[3]  1 if a message that nobody received is not taken, 0 if it is
-- ARGV[4]  the plan, two bytes a message: number of its channel
-- ARGV[5…] the messages, then the channels, each once: a channel is no key
--
-- A message that nobody received is answered with 0, its number of receivers, also where it is
-- taken: it is counted.
local byte = string.byte

return from_place(function()
  local is_held, plan = ARGV[3] == '1', ARGV[4]
  local channels = 5 + #plan / 2
  local failed, report = {}, nil
  for number = 1, #plan / 2 do
    local high, low = byte(plan, 2 * number - 1, 2 * number)
    local channel = ARGV[channels + high * 256 + low]
    if not failed[channel] then
      local reply = pcall('PUBLISH', channel, ARGV[4 + number])
      local fault = type(reply) == 'table' and reply.err
      if fault or reply == 0 then
        report = report or { 0 }
        report[#report + 1] = number
        report[#report + 1] = fault or reply
        if fault then
          -- None is about one message: it (permission, cluster …) would meet all that follow too.
          report[1] = number
          return report
        end
        failed[channel] = is_held
      end
    end
  end
  return report, not is_held
end)
