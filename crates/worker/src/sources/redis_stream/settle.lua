-- Settles entries that a consumer holds. What another has claimed meanwhile is that one's to give back or to bury.
-- An entry is written elsewhere before it goes from here: a write that fails ends the script.
--
-- KEYS[1] the stream
-- KEYS[2] the stream of its dead letters
-- ARGV[1] the group
-- ARGV[2] the consumer
-- ARGV[3] the consumer that has what was given back
-- ARGV[4] milliseconds of silence after which an entry may be claimed
-- ARGV[5] 1 to delete what is settled
-- ARGV[6…] of each entry: done, again or bury; its id; the reason
local stream, group = KEYS[1], ARGV[1]
-- Values that one command can be given (LUAI_MAXCSTACK, less its other arguments).
local VALUES_MAX = 7900

local function forget(id)
  redis.call('XACK', stream, group, id)
  if ARGV[5] == '1' then
    redis.call('XDEL', stream, id)
  end
end

local function bury(id, reason)
  local entry = redis.call('XRANGE', stream, id, id)[1]
  local fields = entry and entry[2] or {}
  if #fields > VALUES_MAX then
    -- Too many to be copied: it stays where it is.
    redis.call('XADD', KEYS[2], '*', 'entry', id, 'reason', reason)
    redis.call('XACK', stream, group, id)
    return
  end
  fields[#fields + 1] = 'reason'
  fields[#fields + 1] = reason
  redis.call('XADD', KEYS[2], '*', unpack(fields))
  forget(id)
end

for at = 6, #ARGV, 3 do
  local fate, id = ARGV[at], ARGV[at + 1]
  if fate == 'done' then
    forget(id)
  else
    local held = redis.call('XPENDING', stream, group, id, id, 1)[1]
    if held and held[2] == ARGV[2] then
      if fate == 'bury' then
        bury(id, ARGV[at + 2])
      else
        redis.call('XCLAIM', stream, group, ARGV[3], 0, id, 'IDLE', ARGV[4], 'JUSTID')
      end
    end
  end
end
return 0
