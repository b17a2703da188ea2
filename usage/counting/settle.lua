-- Turn holds into what the ledger recorded, each exactly once. Runs after the ledger's transaction committed.
--
-- What a counter gains and loses by all reports is summed up first, so that it is written once.
--
-- KEYS  1 tv:{7}:env   2 tv:{7}:open   3 tv:{7}:charge
--       4.. the counters to charge, of the windows of the ledger rows' charged_at
--        .. the reservations of the reports: tv:{7}:r:90ab..
-- ARGV  1 0   clock offset, ms (tests only)
--       2 a msgpack map:
--         revision = '41'   whose tracked pairs the counters are
--         states = true     answer how the counters stand afterwards
--         counters = { { 1795478400000, 1795651200000, 'user:day' }, .. }
--                           of each: window start, when it may be forgotten (0: when unused for long), pair
--         reports = { { counters = { 1, 2 }, charges = { { '771', { 1, 374, 44, 198000 } } } }, .. }
--                           of each: the numbers of its counters, and the ledger's movements of the request, oldest first:
--                           the transaction, and the amounts in the order of COUNTED
-- Answers STALE
--         | DONE { charged(1/0) of each report } { used and held of each counter: ur ui uo uc hr hi ho hc .. }
--                the latter empty without `states`
local FIRST_COUNTER = 4
local EXACT_MAX = 2 ^ 52  -- up to where sums of numbers are exact, with room for one more
local env, open, charge = KEYS[1], KEYS[2], KEYS[3]
local call = cmsgpack.unpack(ARGV[2])
local now = clock()
local known = redis.call('HMGET', env, 'synced', 'rev', 'epoch')
if known[1] ~= call.revision or known[2] ~= call.revision then return { 'STALE' } end
local epoch = tonumber(known[3])
local first_reservation = FIRST_COUNTER + #call.counters

local sums = {}  -- by key and field: what is still to be added
local function add(key, field, by)
  local fields = sums[key] or {}
  sums[key] = fields
  local sum = (fields[field] or 0) + by
  if math.abs(sum) > EXACT_MAX then
    increment(key, field, int(fields[field] or 0))
    sum = tonumber(by)
  end
  fields[field] = sum
end
local function write_sums()
  for key, fields in pairs(sums) do
    for field, sum in pairs(fields) do
      if sum ~= 0 then increment(key, field, int(sum)) end
    end
  end
  sums = {}
end

-- Of each counter how it takes charges: nil, not looked at yet; false, it is incomplete and left missing, for its rebuild
-- will read these rows from the ledger; else { cold, xmin, xmax, xip }.
local taking = {}
local function look_at(n)
  local key, start, forget, pair = KEYS[FIRST_COUNTER + n - 1], unpack(call.counters[n])
  local f = redis.call('HMGET', key, 'born', 'cold', 'xmin', 'xmax', 'xip')
  if not f[1] and not f[2] then
    if (forget ~= 0 and forget <= now) or not starts_complete(env, epoch, pair, start) then return false end
    redis.call('HSET', key, 'born', int(now), 'hb', int(now))
    forget_at(key, forget, now)
  elseif not f[2] and tonumber(f[1]) < epoch then
    return false
  end
  return { cold = f[2], xmin = f[3], xmax = f[4], xip = f[5] }
end

local function charge_counter(n, reservation, xid, amounts)
  if taking[n] == nil then taking[n] = look_at(n) end
  local how, key = taking[n], KEYS[FIRST_COUNTER + n - 1]
  if not how then return end
  if how.cold then
    local texts = {}
    for m, amount in ipairs(amounts) do texts[m] = int(amount) end
    redis.call('HSET', key, 'p:' .. xid .. ':' .. reservation, table.concat(texts, ' '))
  elseif not seen(tonumber(xid), how.xmin, how.xmax, how.xip) then
    for m, letter in ipairs(COUNTED) do
      if amounts[m] ~= 0 then add(key, USED[letter], amounts[m]) end
    end
  end
end

local function settle(reservation, report)
  local charged = redis.call('HGET', reservation, 'x') or ','
  local is_new = false
  for _, movement in ipairs(report.charges) do
    local xid, amounts = movement[1], movement[2]
    -- Transactions' numbers do not tell their order: one may begin before another and write after it.
    if not string.find(charged, ',' .. xid .. ',', 1, true) then
      is_new, charged = true, charged .. xid .. ','
      for _, n in ipairs(report.counters) do charge_counter(n, reservation, xid, amounts) end
    end
  end
  free(reservation, 'settled', open, charge, add)
  redis.call('HSET', reservation, 'st', 'settled', 'x', charged)
  redis.call('PEXPIRE', reservation, TOMBSTONE_MS)
  return is_new and 1 or 0
end

local charged = {}
for n, report in ipairs(call.reports) do charged[n] = settle(KEYS[first_reservation + n - 1], report) end
write_sums()

local states = {}
for n = 1, call.states and #call.counters or 0 do
  local f = redis.call('HMGET', KEYS[FIRST_COUNTER + n - 1], unpack(FIELDS))
  for m = 3, #FIELDS do states[#states + 1] = tonumber(f[m] or 0) end
end
return { 'DONE', charged, states }
