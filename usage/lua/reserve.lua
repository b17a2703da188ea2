-- Check every limit, then hold on every tracked counter; all or nothing, in one step.
--
-- KEYS  1 tv:{7}:env            2 tv:{7}:u:5e1f..      3 tv:{7}:r:90ab..     4 tv:{7}:open   5 tv:{7}:charge
--       6 tv:{7}:decisions      7 tv:{7}:rate:12       8.. the counters: tv:{7}:c:user:day:1795478400000:5e1f.. and so on
--       then the concurrency sets: tv:{7}:k:user:5e1f..
-- ARGV  1 0          clock offset, ms (tests only)
--       2 41         revision the caller compiled
--       3 free|      the end user's record as the caller knows it
--       4 hold       or peek: decide, hold nothing
--       5 1          write a blocked decision to the stream (0: do not)
--       6 c0ffee..   digest of the request
--       7 600000     how long the hold lasts, ms
--       8 release    or charge: what becomes of the hold when it expires
--       9 {...}      the assessment: all that is known before counting
--      10 0          calls a minute the API key may make (0: any number)
--      11 1795512345000   12 1795512360000   the caller's windows are right from.. to before.. (ms)
--      13 1   14 374   15 44   16 198000   requests, input tokens, output tokens, nano-USD to hold
--      17 2   18 1   19 3      numbers of counters, concurrency sets, checks
--      20.. per counter: window start (ms), when it may be forgotten (ms), pair  1795478400000 1795651200000 user:day
--       .. per check: metric (r i o t c, k = concurrency), number of its counter or set, limit, enforce (1 or 0)
--                                                                                r 1 50 1
-- Answers  STALE | USER epoch | CLOCK now | COLD epoch n.. | LIMITED wait_ms | CONFLICT | SETTLED
--          REPLAY assessment readings at deadline
--          DONE held(1/0) at deadline used1 held1 used2 held2 ..   one pair a check, as they were before this call
local SWEEP_FEW, SWEEP_MANY = 10, 500
local env, user, reservation, open, charge = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local FIRST_KEY, FIRST_ARG = 8, 20
local now = clock()

local known = redis.call('HMGET', env, 'synced', 'rev', 'epoch')
if known[1] ~= ARGV[2] or known[2] ~= ARGV[2] then return { 'STALE' } end
local epoch = tonumber(known[3])
if redis.call('GET', user) ~= known[3] .. '|' .. ARGV[3] then return { 'USER', known[3] } end
if now < tonumber(ARGV[11]) or now >= tonumber(ARGV[12]) then return { 'CLOCK', int(now) } end

local per_minute = tonumber(ARGV[10])
local due, wait
if per_minute > 0 then
  due, wait = rate(KEYS[7], per_minute, now)
  if not due then return { 'LIMITED', wait } end
end

local ended = false
if ARGV[4] == 'hold' then
  local f = redis.call('HMGET', reservation, 'st', 'dg', 'as', 'vs', 'at', 'dl')
  if f[1] == 'settled' then return { 'SETTLED' } end
  if f[1] == 'open' and tonumber(f[6]) > now then
    if due then take_rate(KEYS[7], due, now) end
    if f[2] ~= ARGV[6] then return { 'CONFLICT' } end
    return { 'REPLAY', f[3], f[4], f[5], f[6] }
  end
  if f[1] == 'open' then free(reservation, 'expired', open, charge) end
  ended = f[1]
end
sweep(open, charge, now, SWEEP_FEW)

local counters, sets, checks = tonumber(ARGV[17]), tonumber(ARGV[18]), tonumber(ARGV[19])
local amount = { r = tonumber(ARGV[13]), i = tonumber(ARGV[14]), o = tonumber(ARGV[15]), c = tonumber(ARGV[16]), k = 1 }
amount.t = amount.i + amount.o

-- Every counter is read once and written once.
local function read_counters()
  local found = {}
  for n = 1, counters do
    local f = redis.call('HMGET', KEYS[FIRST_KEY + n - 1], 'born', 'cold', 'ur', 'ui', 'uo', 'uc', 'hr', 'hi', 'ho', 'hc')
    local u = { r = tonumber(f[3] or 0), i = tonumber(f[4] or 0), o = tonumber(f[5] or 0), c = tonumber(f[6] or 0) }
    local h = { r = tonumber(f[7] or 0), i = tonumber(f[8] or 0), o = tonumber(f[9] or 0), c = tonumber(f[10] or 0) }
    u.t, h.t = u.i + u.o, h.i + h.o
    found[n] = { born = f[1], cold = f[2], used = u, held = h }
  end
  return found
end

local state = read_counters()
local cold = { 'COLD', known[3] }
for n = 1, counters do
  local arg, complete = FIRST_ARG + (n - 1) * 3, false
  if state[n].cold then
    complete = false
  elseif state[n].born then
    complete = tonumber(state[n].born) >= epoch
  else
    complete = starts_complete(env, epoch, ARGV[arg + 2], tonumber(ARGV[arg]))
  end
  if not complete then
    local key = KEYS[FIRST_KEY + n - 1]
    redis.call('HSET', key, 'cold', 1)
    expire_at(key, ARGV[arg + 1])
    cold[#cold + 1] = n
  end
end
if #cold > 2 then return cold end

local function check_all()
  local fits, readings = true, {}
  for n = 1, checks do
    local arg = FIRST_ARG + counters * 3 + (n - 1) * 4
    local metric, place, limit = ARGV[arg], tonumber(ARGV[arg + 1]), tonumber(ARGV[arg + 2])
    local used, held
    if metric == 'k' then
      used, held = 0, redis.call('ZCOUNT', KEYS[FIRST_KEY + counters + place - 1], '(' .. int(now), '+inf')
    else
      used, held = state[place].used[metric], state[place].held[metric]
    end
    readings[n * 2 - 1], readings[n * 2] = used, held
    -- The same rule as policies/decision.py; a test holds the two together.
    local exceeded = limit == 0 or (amount[metric] > 0 and used + held + amount[metric] > limit)
    if exceeded and ARGV[arg + 3] == '1' then fits = false end
  end
  return fits, readings
end

local fits, readings = check_all()
if not fits and sweep(open, charge, now, SWEEP_MANY) > 0 then
  state = read_counters()
  fits, readings = check_all()
end
if due then take_rate(KEYS[7], due, now) end

local hold = ARGV[4] == 'hold' and fits
local deadline = now + ARGV[7]
if hold then
  local keys, zsets = {}, {}
  for n = 1, counters do
    local key, arg, held, born = KEYS[FIRST_KEY + n - 1], FIRST_ARG + (n - 1) * 3, state[n].held, state[n].born
    redis.call('HSET', key, 'born', born or int(now), 'hr', int(held.r + amount.r), 'hi', int(held.i + amount.i),
      'ho', int(held.o + amount.o), 'hc', int(held.c + amount.c))
    if not born or ARGV[arg] == '0' then expire_at(key, ARGV[arg + 1]) end
    keys[n] = key
  end
  for n = 1, sets do
    local key = KEYS[FIRST_KEY + counters + n - 1]
    redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
    redis.call('ZADD', key, deadline, reservation)
    expire_at(key, deadline + TOMBSTONE_MS)
    zsets[n] = key
  end
  if ended then redis.call('DEL', reservation) end
  redis.call('HSET', reservation, 'st', 'open', 'dg', ARGV[6], 'as', ARGV[9], 'vs', cmsgpack.pack(readings),
    'at', int(now), 'dl', int(deadline), 'am', table.concat({ ARGV[13], ARGV[14], ARGV[15], ARGV[16] }, ' '),
    'ks', table.concat(keys, ' '), 'zs', table.concat(zsets, ' '))
  redis.call('ZADD', ARGV[8] == 'charge' and charge or open, deadline, reservation)
elseif ARGV[5] == '1' then
  redis.call('XADD', KEYS[6], 'MAXLEN', '~', 100000, '*', 'as', ARGV[9], 'vs', cmsgpack.pack(readings), 'at', int(now))
end

local answer = { 'DONE', hold and 1 or 0, int(now), int(deadline) }
for n = 1, #readings do answer[4 + n] = readings[n] end
return answer
