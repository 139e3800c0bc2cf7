-- The load of `submissions`: jobs with numbers, of a thousand keys in turn. Arguments: the number behind which they begin, and a
-- file for the answers.

local text = "a welcome of about two hundred bytes, as applications send them when somebody has "
  .. "registered and wants to hear more"
local headers = { ["content-type"] = "application/json" }
local form = '{"topic":"mail","key":"user-%d","payload":{"n":%d,"text":"%s"}}'
local number

function init(args)
  number = tonumber(args[1])
  if args[2] then
    local answers = io.open(args[2], "w")
    -- Where there is none, wrk does not read what is answered.
    function response(status, _, body)
      if status == 202 then answers:write(body, "\n") end
    end
  end
end

function request()
  number = number + 1
  local body = form:format(number % 1000, number, text)
  return wrk.format("POST", "/api/v1/jobs", headers, body)
end

function done(summary, latency)
  local errors = summary.errors
  local figures = '{"requests":%d,"refused":%d,"socket_errors":%d,"seconds":%.3f,"p50_ms":%.3f,"p99_ms":%.3f,"max_ms":%.3f}\n'
  io.write(figures:format(
    summary.requests,
    errors.status,
    errors.connect + errors.read + errors.write + errors.timeout,
    summary.duration / 1e6,
    latency:percentile(50) / 1e3,
    latency:percentile(99) / 1e3,
    latency.max / 1e3))
end
