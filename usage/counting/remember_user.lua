-- Keep what PostgreSQL holds of an end user beside the counters; all changes that were announced have ended.
--
-- KEYS  1 tv:{7}:env   2 tv:{7}:eu:5e1f..
-- ARGV  1 0       clock offset, ms (tests only)
--       2 0free   the record
--       3 900     how long to keep it, s
--       4 1795512345678   epoch in force when PostgreSQL was read
--       5 1795512345678   the user's turn, as it was before PostgreSQL was read ('' = none)
-- Answers OK | OLD: something changed since, read again
local user = KEYS[2]
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[4] then return 'OLD' end
if (redis.call('HGET', user, 'turn') or '') ~= ARGV[5] then return 'OLD' end
redis.call('HDEL', user, 'changing')
redis.call('HSET', user, 'record', ARGV[4] .. '|' .. ARGV[2], 'turn', next_turn(user))
redis.call('EXPIRE', user, ARGV[3])
return 'OK'
