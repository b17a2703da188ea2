-- Keep a long call's hold: it now lasts until the given time from now on, never shorter than before.
--
-- KEYS  1 tv:{7}:r:90ab..   2 tv:{7}:open   3 tv:{7}:charge
-- ARGV  1 0        clock offset, ms (tests only)
--       2 600000   how long from now on, ms
-- Answers the new deadline (ms), or 0 if the reservation is not open
local now = clock()
local f = redis.call('HMGET', KEYS[1], 'st', 'dl', 'zs')
if f[1] ~= 'open' or tonumber(f[2] or 0) <= now then return '0' end
local deadline = math.max(tonumber(f[2]), now + ARGV[2])
redis.call('HSET', KEYS[1], 'dl', int(deadline))
for _, index in ipairs({ KEYS[2], KEYS[3] }) do redis.call('ZADD', index, 'XX', deadline, KEYS[1]) end
for key in string.gmatch(f[3] or '', '%S+') do
  redis.call('ZADD', key, 'XX', deadline, KEYS[1])
  keep_set(key)
end
return int(deadline)
