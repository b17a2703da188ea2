-- Tell the store which edition is in force and which pairs it tracks, as the caller has just read it in PostgreSQL.
--
-- KEYS  1 tv:{7}:env   2 tv:{7}:open   3 tv:{7}:charge
-- ARGV  1 0    clock offset, ms (tests only)
--       2 41.9f3ac1   edition
--       3 1795512345678   the turn, as it was before PostgreSQL was read ('' = none)
--       4 771 772   transactions that had announced themselves and not ended then ('' = none)
--       5 Europe/Berlin   the zone that its windows are cut in
--       6.. the pairs it tracks, of some models with what they mean   user:day user:month:5e1f=07be   then the run of the
--           server
-- Answers { OK | OLD: something changed since the turn, restarted(1/0): the counters were of an earlier run }
local env, now = KEYS[1], int(clock())
local known = redis.call('HMGET', env, 'epoch', 'run', 'turn')
local restarted = known[1] and known[2] ~= RUN
if restarted then
  -- The store may have come back with less than it had.
  redis.call('HSET', env, 'epoch', later_epoch(env))
  redis.call('HDEL', env, 'synced')
end
redis.call('HSETNX', env, 'epoch', now)
redis.call('HSET', env, 'run', RUN)
if (known[3] or '') ~= ARGV[3] then return { 'OLD', restarted and 1 or 0 } end

local zone = redis.call('HGET', env, 'zone')
redis.call('HSET', env, 'zone', ARGV[5])
local wanted, resumed = {}, false
for n = 6, #ARGV - 1 do
  local pair, means = string.match(ARGV[n], '^([^=]*)=?(.*)$')
  wanted['t:' .. pair] = true
  local is_new = redis.call('HSETNX', env, 't:' .. pair, now) == 1
  if redis.call('HDEL', env, 'd:' .. pair) == 1 then resumed = true end
  local meant = redis.call('HGET', env, 'm:' .. pair) or ''
  if meant ~= means then
    redis.call('HSET', env, 'm:' .. pair, means)
    if not is_new then resumed = true end
  end
end
for _, field in ipairs(redis.call('HKEYS', env)) do
  if string.sub(field, 1, 2) == 't:' and not wanted[field] then
    redis.call('HDEL', env, field, 'm:' .. string.sub(field, 3))
    redis.call('HSET', env, 'd:' .. string.sub(field, 3), 1)
  end
end
-- Counters that are left of a pair from before it was dropped missed what was charged since; those of models that mean
-- others now, what these were charged; and the windows of another zone, which have keys of their own, what was charged
-- before.
local moved = zone and zone ~= ARGV[5]
if resumed or moved then redis.call('HSET', env, 'epoch', later_epoch(env)) end
-- The calls in flight hold in the windows of the zone before: nothing is held until they hold in those of this one.
if moved and (redis.call('ZCARD', KEYS[2]) > 0 or redis.call('ZCARD', KEYS[3]) > 0) then
  redis.call('HSET', env, 'carry', ARGV[5] .. ' ' .. redis.call('HGET', env, 'epoch'))
end
if ARGV[4] == '' then redis.call('HDEL', env, 'changing') else redis.call('HSET', env, 'changing', ARGV[4]) end
redis.call('HSET', env, 'synced', ARGV[2], 'turn', next_turn(env))
return { 'OK', restarted and 1 or 0 }
