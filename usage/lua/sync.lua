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
local wanted, resumed = {}, false
for n = 3, #ARGV do
  wanted['t:' .. ARGV[n]] = true
  redis.call('HSETNX', env, 't:' .. ARGV[n], now)
  if redis.call('HDEL', env, 'd:' .. ARGV[n]) == 1 then resumed = true end
end
for _, field in ipairs(redis.call('HKEYS', env)) do
  if string.sub(field, 1, 2) == 't:' and not wanted[field] then
    redis.call('HDEL', env, field)
    redis.call('HSET', env, 'd:' .. string.sub(field, 3), 1)
  end
end
-- Counters that are left of a pair from before it was dropped missed what was charged since.
if resumed then redis.call('HSET', env, 'epoch', later_epoch(env)) end
redis.call('HSET', env, 'rev', ARGV[2], 'synced', ARGV[2])
return 'OK'
