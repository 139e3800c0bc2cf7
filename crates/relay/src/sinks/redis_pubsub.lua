-- Publishes messages to channels, in order, until something stands in the way. Follows
-- `place.lua`, which says what KEYS[1], ARGV[1] to ARGV[5] and the answer are.
--
-- ARGV[6]  1 if a message that nobody received is not taken, 0 if it is
-- ARGV[7]  the plan, two bytes a message: number of its channel
-- ARGV[8…] the messages, then the channels, each once: a channel is no key
--
-- A message that nobody received is answered with 0, its number of receivers, also where it is
-- taken: it is counted.
local byte = string.byte

return from_place(function()
  local is_held, plan = ARGV[6] == '1', ARGV[7]
  local channels = 8 + #plan / 2
  local failed, report = {}, nil
  for number = 1, #plan / 2 do
    local high, low = byte(plan, 2 * number - 1, 2 * number)
    local channel = ARGV[channels + high * 256 + low]
    if failed[channel] then
      miss(number, number)
    else
      local reply = pcall('PUBLISH', channel, ARGV[7 + number])
      local fault = type(reply) == 'table' and reply.err
      if fault or reply == 0 then
        report = report or { 0 }
        report[#report + 1] = number
        report[#report + 1] = fault or reply
        if fault then
          -- None is about one message: it (permission, cluster …) would meet all that follow too.
          report[1] = number
          miss(number, #plan / 2)
          return report
        end
        if is_held then
          miss(number, number)
          failed[channel] = true
        end
      end
    end
  end
  return report
end)
