-- What must be known before reports are written: is the caller's revision in force, may its key call, which of the
-- requests are held; and of the others, what is stored of their end users.
--
-- KEYS  1 tv:{7}:env   2 tv:{7}:rate:12
--       3.. tv:{7}:r:90ab..    the reservations of the reports
--        .. tv:{7}:eu:5e1f..   as many: their end users
-- ARGV  1 0    clock offset, ms (tests only)
--       2 41.9f3ac1   edition that the caller knows; * = just read from PostgreSQL
--       3 60   calls a minute the API key may make (0: any number)
-- Answers STALE | LIMITED wait_ms
--         | OK state1 assessment1 at1 record1 state2 assessment2 at2 record2 ..
--           of each request that is held, or was until it expired, the first three; else nil, and the end user's record,
--           if it is known
local FIRST_RESERVATION = 3
local known = redis.call('HMGET', KEYS[1], 'synced', 'changing', 'run', 'epoch')
if not in_step(known, ARGV[2]) then return { 'STALE' } end
local per_minute = tonumber(ARGV[3])
if per_minute > 0 then
  local now = clock()
  local due, wait = rate(KEYS[2], per_minute, now)
  if not due then return { 'LIMITED', wait } end
  take_rate(KEYS[2], due, now)
end

local function record_of(user)
  local f = redis.call('HMGET', user, 'record', 'changing')
  local prefix = known[4] .. '|'
  if not f[1] or f[2] or string.sub(f[1], 1, #prefix) ~= prefix then return false end
  return string.sub(f[1], #prefix + 1)
end

local answer, requests = { 'OK' }, (#KEYS - FIRST_RESERVATION + 1) / 2
for n = FIRST_RESERVATION, FIRST_RESERVATION + requests - 1 do
  local f = redis.call('HMGET', KEYS[n], 'st', 'as', 'at')
  local evaluated = f[1] == 'open' or (f[1] == 'expired' and f[2])
  for m = 1, 3 do answer[#answer + 1] = evaluated and f[m] end
  answer[#answer + 1] = not evaluated and record_of(KEYS[n + requests])
end
return answer
