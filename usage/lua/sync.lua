-- Tell the store which revision is in force and which pairs that revision tracks.
--
-- KEYS  1 tv:{7}:env
-- ARGV  1 0    clock offset, ms (tests only)
--       2 41   revision, just read from PostgreSQL
--       3.. the pairs it tracks   user:day user:month environment:month
-- Answers OK | OLD: a later revision is known, read again
local env, now = KEYS[1], int(clock())
local rev = tonumber(redis.call('HGET', env, 'rev') or 0)
if rev > tonumber(ARGV[2]) then return 'OLD' end
redis.call('HSETNX', env, 'epoch', now)
local wanted = {}
for n = 3, #ARGV do
  wanted['t:' .. ARGV[n]] = true
  redis.call('HSETNX', env, 't:' .. ARGV[n], now)
end
for _, field in ipairs(redis.call('HKEYS', env)) do
  if string.sub(field, 1, 2) == 't:' and not wanted[field] then redis.call('HDEL', env, field) end
end
redis.call('HSET', env, 'rev', ARGV[2], 'synced', ARGV[2])
return 'OK'
