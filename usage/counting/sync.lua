-- Tell the store which revision is in force and which pairs that revision tracks.
--
-- KEYS  1 tv:{7}:env
-- ARGV  1 0    clock offset, ms (tests only)
--       2 41   revision, just read from PostgreSQL
--       3 Europe/Berlin   the zone that its windows are cut in
--       4.. the pairs it tracks   user:day user:month environment:month
-- Answers OK | OLD: a later revision is known, read again
local env, now = KEYS[1], int(clock())
local rev = tonumber(redis.call('HGET', env, 'rev') or 0)
if rev > tonumber(ARGV[2]) then return 'OLD' end
redis.call('HSETNX', env, 'epoch', now)
local zone = redis.call('HGET', env, 'zone')
redis.call('HSET', env, 'zone', ARGV[3])
local wanted, resumed = {}, false
for n = 4, #ARGV do
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
-- Counters that are left of a pair from before it was dropped missed what was charged since; and the windows of another
-- zone, which have keys of their own, what was charged before.
if resumed or (zone and zone ~= ARGV[3]) then redis.call('HSET', env, 'epoch', later_epoch(env)) end
redis.call('HSET', env, 'rev', ARGV[2], 'synced', ARGV[2])
return 'OK'
