-- Count one call of an API key, or refuse it.
--
-- KEYS  1 tv:{7}:rate:12
-- ARGV  1 0    clock offset, ms (tests only)
--       2 60   calls a minute
-- Answers 0, or how long to wait (ms)
local now = clock()
local due, wait = rate(KEYS[1], tonumber(ARGV[2]), now)
if due then take_rate(KEYS[1], due, now) end
return wait
