-- From now on no counter of the environment counts as complete: each is rebuilt from the ledger before its next use.
--
-- KEYS  1 tv:{7}:env
-- ARGV  1 0   clock offset, ms (tests only)
local epoch = tonumber(redis.call('HGET', KEYS[1], 'epoch') or 0)
-- Later than any counter made until now, and later than the epoch before.
redis.call('HSET', KEYS[1], 'epoch', int(math.max(clock(), epoch) + 1))
redis.call('HDEL', KEYS[1], 'synced')
return 'OK'
