-- Check every limit, then hold on every tracked counter; all or nothing, in one step. A call that names no cap on its
-- output is given what its limits leave of what it is expected to need.
--
-- KEYS  1 tv:{7}:env            2 tv:{7}:eu:5e1f..     3 tv:{7}:r:90ab..     4 tv:{7}:open   5 tv:{7}:charge
--       6 tv:{7}:decisions      7 tv:{7}:rate:12       8.. the counters: tv:{7}:c:user:day:1795478400000:5e1f.. and so on
--       then the concurrency sets: tv:{7}:k:user:5e1f..
-- ARGV  1 0   clock offset, ms (tests only)
--       2 a msgpack map:
--         revision = '41.9f3ac1'  the edition that the caller compiled; * = just read from PostgreSQL
--         user = '0free'          the end user's record as the caller knows it; * = just read from PostgreSQL
--         hold = true             false: decide, hold nothing
--         record = true           write a blocked decision to the stream
--         by = '51ab..'           of this evaluate
--         digest = 'c0ffee..'     of the request
--         hold_ms = 600000        how long the hold lasts
--         charge = false          charge the hold when it expires, instead of releasing it
--         per_minute = 0          calls a minute the API key may make (0: any number)
--         zone = 'Europe/Berlin'  that the caller's windows are cut in
--         since_ms, until_ms      from when until before when the caller's windows are right
--         amounts = { 1, 374, 44, 198000 }    requests, input tokens, output tokens, nano-USD to hold
--         amounts_text = '1 374 44 198000'    the same, as the reservation keeps it: Lua is slow at writing numbers
--         least = { 1, 374, 1, 110000 }       of a call that names no cap: what it needs in any case. Down to this its
--                                 output is what its limits leave; nil: all of `amounts` or nothing
--         cost = { 93500, 0, 2, 375000 }      what its cost is reckoned with: all but output, nano-USD and millionths;
--                                 an output token, likewise
--         counters = { { 1795478400000, 1795651200000, 'user:day' }, .. }
--                                 of each: window start, when it may be forgotten (0: when unused for long), pair
--         checks = { { 'r', 1, 50, true }, .. }
--                                 metric (r i o t c, k = concurrency), number of its counter or set, limit, enforce
--       3 the assessment: all that is known before counting; packed, and not read here
-- Answers  STALE | USER epoch turn changing | CLOCK now | CARRY token | COLD epoch n.. | LIMITED wait_ms
--          CONFLICT | SETTLED
--          REPLAY assessment readings at deadline
--          DONE held(1/0) at deadline used1 held1 used2 held2 ..   one pair a check, as they were before this call
local SWEEP_FEW, SWEEP_MANY = 10, 500
local FIRST_COUNTER = 8
local env, user, reservation, open, charge = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local call = cmsgpack.unpack(ARGV[2])
local now = clock()

local known = redis.call('HMGET', env, 'synced', 'changing', 'run', 'epoch', 'carry', 'zone')
if not in_step(known, call.revision) then return { 'STALE' } end
local epoch = tonumber(known[4])
local of_user = redis.call('HMGET', user, 'record', 'changing', 'turn')
if call.user ~= JUST_READ and (of_user[2] or of_user[1] ~= known[4] .. '|' .. call.user) then
  return { 'USER', known[4], of_user[3] or '', of_user[2] or '' }
end
if now < call.since_ms or now >= call.until_ms then return { 'CLOCK', now } end

-- Of a caller that has just read PostgreSQL the edition is not compared, but its windows must be those of now.
local carry, zone = known[5], known[6]
if call.zone and zone and zone ~= call.zone then return { 'STALE' } end
if carry then return { 'CARRY', carry } end

local due, wait
if call.per_minute > 0 then
  due, wait = rate(KEYS[7], call.per_minute, now)
  if not due then return { 'LIMITED', wait } end
end

local ended = false
if call.hold then
  local f = redis.call('HMGET', reservation, 'st', 'dg', 'as', 'vs', 'at', 'dl')
  if f[1] == 'settled' then return { 'SETTLED' } end
  if f[1] == 'open' and tonumber(f[6] or 0) > now then
    if due then take_rate(KEYS[7], due, now) end
    if f[2] ~= call.digest then return { 'CONFLICT' } end
    redis.call('HDEL', reservation, 'by')
    return { 'REPLAY', f[3] or '', f[4] or '', f[5] or now, f[6] }
  end
  if f[1] == 'open' then
    -- Expired. If it is to be charged it is as good as charged: the estimate would be lost with the hold.
    if redis.call('ZSCORE', charge, reservation) then return { 'SETTLED' } end
    free(reservation, 'expired', open, charge)
  end
  ended = f[1]
end
sweep(open, charge, now, SWEEP_FEW)

local counters = #call.counters
local sets = #KEYS - FIRST_COUNTER + 1 - counters
local MILLION = 1000000

local function by_letter(amounts)
  local found = {}
  for n, letter in ipairs(COUNTED) do found[letter] = amounts[n] end
  return found
end

-- What the call asks for, by letter; what it needs in any case; and that of each metric.
local asked, needed = by_letter(call.amounts), { k = 1 }
local least = call.least and by_letter(call.least) or asked
for metric, letters in pairs(PARTS) do
  needed[metric] = 0
  for _, letter in ipairs(letters) do needed[metric] = needed[metric] + least[letter] end
end

-- In nano-USD, rounded up. Whole nano-USD and millionths are kept apart, for together they are beyond a double.
local function cost_of(output)
  local input, input_rest, token, token_rest = unpack(call.cost)
  return input + output * token + math.ceil((input_rest + output * token_rest) / MILLION)
end

local function affordable_output(left, output)
  local input, input_rest, token, token_rest = unpack(call.cost)
  if token == 0 and token_rest == 0 then return output end
  -- A division of doubles may be off by one; the cost itself is exact.
  local fits = math.floor((left - input - input_rest / MILLION) / (token + token_rest / MILLION)) + 2
  fits = math.min(output, fits)
  while fits > least.o and cost_of(fits) > left do fits = fits - 1 end
  return fits
end

-- The output that a limit on this metric leaves of so much.
local function output_left(metric, left, output)
  if metric == 'c' then return affordable_output(left, output) end
  local counts_output = false
  for _, letter in ipairs(PARTS[metric] or {}) do
    if letter == 'o' then counts_output = true else left = left - asked[letter] end
  end
  return counts_output and math.min(output, left) or output
end

-- Every counter is read once and written once. The fields stay as they were read: no further tables for each counter
-- (`make bench` prints what evaluate costs).
local function read_counters()
  local found = {}
  for n = 1, counters do
    found[n] = redis.call('HMGET', KEYS[FIRST_COUNTER + n - 1], unpack(FIELDS))
  end
  return found
end

-- What a counter has of a metric: `places` is USED_PLACE or HELD_PLACE.
local function amount_of(fields, places, metric)
  local sum = 0
  for _, letter in ipairs(PARTS[metric]) do sum = sum + (fields[places[letter]] or 0) end
  return sum
end

local state = read_counters()
local cold = { 'COLD', known[4] }
for n = 1, counters do
  local start, forget, pair = unpack(call.counters[n])
  local born, complete = state[n][BORN], nil
  if state[n][COLD] then
    complete = false
  elseif born then
    complete = tonumber(born) >= epoch
  else
    complete = starts_complete(env, epoch, pair, start)
  end
  if not complete then
    local key = KEYS[FIRST_COUNTER + n - 1]
    redis.call('HSET', key, 'cold', 1)
    forget_at(key, forget, now)
    cold[#cold + 1] = n
  end
end
if #cold > 2 then return cold end

-- Whether the call fits, its output, and the readings of its limits.
local function check_all()
  local fits, output, readings = true, asked.o, {}
  for n, check in ipairs(call.checks) do
    local metric, place, limit, enforce = unpack(check)
    local used, held
    if metric == 'k' then
      used, held = 0, redis.call('ZCOUNT', KEYS[FIRST_COUNTER + counters + place - 1], '(' .. int(now), '+inf')
    else
      used, held = amount_of(state[place], USED_PLACE, metric), amount_of(state[place], HELD_PLACE, metric)
    end
    readings[n * 2 - 1], readings[n * 2] = used, held
    -- The same rules as policies/deciding/decision.py; a test holds the two together.
    local exceeded = limit == 0 or (needed[metric] > 0 and used + held + needed[metric] > limit)
    if enforce then
      if exceeded then fits = false end
      if call.least then output = math.max(least.o, output_left(metric, limit - used - held, output)) end
    end
  end
  return fits, output, readings
end

local fits, output, readings = check_all()
if (not fits or output < asked.o) and sweep(open, charge, now, SWEEP_MANY) > 0 then
  state = read_counters()
  fits, output, readings = check_all()
end
local amounts_text = call.amounts_text
if fits and output < asked.o then
  asked.o, asked.c = output, cost_of(output)
  local texts = {}
  for n, letter in ipairs(COUNTED) do texts[n] = int(asked[letter]) end
  amounts_text = table.concat(texts, ' ')
end
if due then take_rate(KEYS[7], due, now) end

local hold = call.hold and fits
local deadline = now + call.hold_ms
if hold then
  local writes = {}
  for n = 1, counters do
    local key, fields = KEYS[FIRST_COUNTER + n - 1], state[n]
    local born, forget = fields[BORN], call.counters[n][2]
    for m, letter in ipairs(COUNTED) do
      writes[m * 2 - 1], writes[m * 2] = HELD[letter], (fields[HELD_PLACE[letter]] or 0) + asked[letter]
    end
    redis.call('HSET', key, unpack(writes))
    if not born then
      redis.call('HSET', key, 'born', now)
      redis.call('HSETNX', key, 'hb', now)
    end
    if not born or forget == 0 then forget_at(key, forget, now) end
  end
  for n = FIRST_COUNTER + counters, #KEYS do
    local key = KEYS[n]
    redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
    redis.call('ZADD', key, deadline, reservation)
    keep_set(key)
  end
  if ended then redis.call('DEL', reservation) end
  redis.call('HSET', reservation, 'st', 'open', 'by', call.by, 'dg', call.digest, 'as', ARGV[3], 'vs', cmsgpack.pack(readings),
    'at', now, 'dl', deadline, 'am', amounts_text,
    'ks', table.concat(KEYS, ' ', FIRST_COUNTER, FIRST_COUNTER + counters - 1),
    'zs', sets > 0 and table.concat(KEYS, ' ', FIRST_COUNTER + counters) or '')
  redis.call('ZADD', call.charge and charge or open, deadline, reservation)
elseif call.record then
  redis.call('XADD', KEYS[6], 'MAXLEN', '~', 100000, '*', 'as', ARGV[3], 'vs', cmsgpack.pack(readings), 'at', now)
end

return { 'DONE', hold and 1 or 0, now, deadline, unpack(readings) }
