-- Appends messages to streams, in order, until something stands in the way. Follows `place.lua`,
-- which says what KEYS[1], ARGV[1] to ARGV[5] and the answer are.
--
-- KEYS[2…] the streams, each once
-- ARGV[6]  length to trim the streams to beforehand, or 0
-- ARGV[7]  the plan, five bytes a message: shape, number of its values (16 bits), number of its
--          stream in KEYS (16 bits)
-- ARGV[8…] the values of all messages, one message after the other
local byte, find, unpack = string.byte, string.find, unpack

-- The common shapes carry values alone: topic and content type, unless they are those of the last
-- message that named them (`…_AGAIN`), then id, key if there is one, time and payload. Every other
-- message has its field names in ARGV as well.
local FREE, KEYED, KEYLESS, KEYED_AGAIN = 0, 1, 2, 3

-- Whether an error is about one message or its stream. Any other one (memory, replica, permission,
-- cluster …) would meet all that follow too.
local function is_about_the_message(fault)
  return find(fault, 'WRONGTYPE', 1, true)
    or find(fault, 'stream has exhausted', 1, true)
    or find(fault, 'Elements are too large', 1, true)
end

-- Before the first append, so that a permission that is missing ends the script with nothing
-- appended.
local function trim(length)
  for stream = 2, #KEYS do
    local reply = pcall('XTRIM', KEYS[stream], 'MAXLEN', '~', length)
    if type(reply) == 'table' and not is_about_the_message(reply.err) then
      miss(1, #ARGV[7] / 5)
      return { 1, 1, reply.err }
    end
  end
end

local function append_all(plan)
  local number, value = 0, 8
  local failed, report, topic, content_type
  for at = 1, #plan, 5 do
    local shape, count_high, count_low, high, low = byte(plan, at, at + 4)
    local stream = high * 256 + low + 2
    local count = count_high * 256 + count_low
    local first = value
    value = value + count
    number = number + 1
    if shape == KEYED or shape == KEYLESS then
      topic, content_type, first = ARGV[first], ARGV[first + 1], first + 2
    end
    if failed and failed[stream] then
      miss(number, number)
    else
      local reply
      if shape == FREE then
        reply = pcall('XADD', KEYS[stream], '*', unpack(ARGV, first, first + count - 1))
      elseif shape == KEYED or shape == KEYED_AGAIN then
        reply = pcall('XADD', KEYS[stream], '*', 'id', ARGV[first], 'topic', topic,
          'key', ARGV[first + 1], 'content_type', content_type,
          'enqueued_at', ARGV[first + 2], 'payload', ARGV[first + 3])
      else
        reply = pcall('XADD', KEYS[stream], '*', 'id', ARGV[first], 'topic', topic,
          'content_type', content_type, 'enqueued_at', ARGV[first + 1],
          'payload', ARGV[first + 2])
      end
      if type(reply) == 'table' then
        failed, report = failed or {}, report or { 0 }
        report[#report + 1] = number
        report[#report + 1] = reply.err
        if not is_about_the_message(reply.err) then
          report[1] = number
          miss(number, #plan / 5)
          return report
        end
        miss(number, number)
        failed[stream] = true
      end
    end
  end
  return report
end

return from_place(function()
  return ARGV[6] ~= '0' and trim(ARGV[6]) or append_all(ARGV[7])
end)
