-- Begins the script of a sink on Redis that keeps no place, as `place.lua` does of those that do: the
-- same arguments, of which KEYS[1] and ARGV[1] to ARGV[5] are not looked at.
local pcall, sub = redis.pcall, string.sub

local function miss() end

local function from_place(take_all)
  return take_all()
end
