-- Pushes messages onto lists, in order, until something stands in the way. Follows `place.lua`,
-- which says what KEYS[1], ARGV[1] to ARGV[5] and the answer are.
--
-- KEYS[2…] the lists, each once
-- ARGV[6]  elements that a list may hold, or 0 for any number
-- ARGV[7]  LPUSH or RPUSH
-- ARGV[8]  the plan, two bytes a message: number of its list in KEYS
-- ARGV[9…] the elements, one a message
--
-- A message that its list has no room for is answered with the number of elements there.
local byte, find, min, unpack = string.byte, string.find, math.min, unpack
local limit, push, plan = tonumber(ARGV[6]), ARGV[7], ARGV[8]
local messages = #plan / 2

-- The last of the messages from `first` on that go to one list, which one push takes.
local function end_of_run(first, high, low)
  for number = first + 1, messages do
    local next_high, next_low = byte(plan, 2 * number - 1, 2 * number)
    if next_high ~= high or next_low ~= low then
      return number - 1
    end
  end
  return messages
end

-- Returns nothing, or the first message that was not pushed and why.
local function push_run(list, first, last)
  local length, through = 0, last
  if limit > 0 then
    length = pcall('LLEN', KEYS[list])
    if type(length) == 'table' then
      return first, length.err
    end
    through = min(last, first + limit - length - 1)
  end
  if through >= first then
    length = pcall(push, KEYS[list], unpack(ARGV, 8 + first, 8 + through))
    if type(length) == 'table' then
      return first, length.err
    end
    first = through + 1
  end
  if first <= last then
    return first, length
  end
end

return from_place(function()
  local failed, report, number = {}, nil, 1
  while number <= messages do
    local high, low = byte(plan, 2 * number - 1, 2 * number)
    local list, last = high * 256 + low + 2, end_of_run(number, high, low)
    local untaken, why
    if failed[list] then
      miss(number, last)
    else
      untaken, why = push_run(list, number, last)
    end
    if untaken then
      miss(untaken, last)
      failed[list], report = true, report or { 0 }
      report[#report + 1] = untaken
      report[#report + 1] = why
      -- Any other error (memory, replica, permission, cluster …) would meet all that follow too.
      if type(why) == 'string' and not find(why, 'WRONGTYPE', 1, true) then
        report[1] = untaken
        miss(last + 1, messages)
        return report
      end
    end
    number = last + 1
  end
  return report
end)
