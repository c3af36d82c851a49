-- wrk has no rate limit: each connection waits between a response and its next request.
-- wrk -s think.lua URL -- MILLISECONDS

local think_ms = 1

function init(args)
   think_ms = tonumber(args[1])
end

function delay()
   return think_ms
end
