-- Have calls in flight hold in other windows than they did: the tenant's time zone has changed.
--
-- KEYS  1 tv:{7}:env   2.. the reservations: tv:{7}:r:90ab..   then the counters that they are to hold in
-- ARGV  1 0   clock offset, ms (tests only)
--       2 a msgpack map:
--         token = 'Asia/Tokyo 1795512345678'   what `reserve` named
--         holds = { { 1, 2 }, .. }   of each reservation the numbers of its counters
--         forget_at = { 1795651200000, .. }   of each counter when it may be forgotten (0: when unused for long)
--         last = true   all reservations were carried: calls may hold again
-- Answers OK (also for reservations that ended, or were carried before) | GONE: the zone has changed once more
local env = KEYS[1]
local call = cmsgpack.unpack(ARGV[2])
local now = clock()
if redis.call('HGET', env, 'carry') ~= call.token then return 'GONE' end
local holds = #call.holds

local function put_in(amounts, key, forget)
  redis.call('HSETNX', key, 'hb', now)
  local n = 0
  for amount in string.gmatch(amounts or '', '%S+') do
    n = n + 1
    if COUNTED[n] and amount ~= '0' then redis.call('HINCRBY', key, HELD[COUNTED[n]], amount) end
  end
  forget_at(key, forget, now)
end

for n, numbers in ipairs(call.holds) do
  local reservation, keys = KEYS[1 + n], {}
  local f = redis.call('HMGET', reservation, 'am', 'ks', 'at', 'ha', 'st')
  for m, number in ipairs(numbers) do keys[m] = KEYS[1 + holds + number] end
  local text = table.concat(keys, ' ')
  if f[5] == 'open' and f[2] ~= text then
    take_out(f, each_at_once)
    for m, number in ipairs(numbers) do put_in(f[1], keys[m], call.forget_at[number]) end
    redis.call('HSET', reservation, 'ks', text, 'ha', now)
  end
end
if call.last then redis.call('HDEL', env, 'carry') end
return 'OK'
