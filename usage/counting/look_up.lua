-- What must be known before reports are written: is the caller's revision in force, may its key call, which of the
-- requests are held.
--
-- KEYS  1 tv:{7}:env   2 tv:{7}:rate:12   3.. tv:{7}:r:90ab..   the reservations of the reports
-- ARGV  1 0    clock offset, ms (tests only)
--       2 41.9f3ac1   edition that the caller knows; * = just read from PostgreSQL
--       3 60   calls a minute the API key may make (0: any number)
-- Answers STALE | LIMITED wait_ms
--         | OK state1 assessment1 at1 state2 assessment2 at2 ..   open or expired; nil for a request without a hold
local known = redis.call('HMGET', KEYS[1], 'synced', 'changing', 'run', 'epoch')
if not in_step(known, ARGV[2]) then return { 'STALE' } end
local per_minute = tonumber(ARGV[3])
if per_minute > 0 then
  local now = clock()
  local due, wait = rate(KEYS[2], per_minute, now)
  if not due then return { 'LIMITED', wait } end
  take_rate(KEYS[2], due, now)
end
local answer = { 'OK' }
for n = 3, #KEYS do
  local f = redis.call('HMGET', KEYS[n], 'st', 'as', 'at')
  local evaluated = f[1] == 'open' or (f[1] == 'expired' and f[2])
  for m = 1, 3 do answer[#answer + 1] = evaluated and f[m] end
end
return answer
