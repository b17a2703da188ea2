-- Turn holds into what the ledger recorded, each exactly once. Runs after the ledger's transaction committed.
--
-- Each counter is read once and written once, with the sum of what all reports change.
--
-- KEYS  1 tv:{7}:env   2 tv:{7}:open   3 tv:{7}:charge
--       4.. the counters to charge, of the windows of the ledger rows' charged_at
--        .. the reservations of the reports: tv:{7}:r:90ab..
-- ARGV  1 0   clock offset, ms (tests only)
--       2 a msgpack map:
--         revision = '41.9f3ac1'   the edition whose tracked pairs the counters are; * = just read from PostgreSQL
--         states = true     answer how the counters stand afterwards
--         counters = { { 1795478400000, 1795651200000, 'user:day' }, .. }
--                           of each: window start, when it may be forgotten (0: when unused for long), pair
--         reports = { { { '771', { 1, 374, 44, 198000 }, { 1, 2 } }, .. }, .. }
--                           of each what the ledger charged for the request, oldest first: the transaction, the amounts
--                           in the order of COUNTED, and the numbers of the counters that take them
-- Answers STALE
--         | DONE { charged(1/0) of each report } { used and held of each counter: ur ui uo uc hr hi ho hc .. }
--                the latter empty without `states`
local FIRST_COUNTER = 4
local EXACT_MAX = 2 ^ 52  -- up to where numbers are exact, with room for one more
local env, open, charge = KEYS[1], KEYS[2], KEYS[3]
local call = cmsgpack.unpack(ARGV[2])
local now = clock()
local known = redis.call('HMGET', env, 'synced', 'changing', 'run', 'epoch')
if not in_step(known, call.revision) then return { 'STALE' } end
local epoch = tonumber(known[4])
local first_reservation = FIRST_COUNTER + #call.counters

-- The counters as they were read, each once, with what is to be added to them.
local READ = { 'hb', 'xmin', 'xmax', 'xip', unpack(FIELDS) }
local read = {}
local function counter(key)
  local found = read[key]
  if not found then
    local values = redis.call('HMGET', key, unpack(READ))
    found = { key = key, added = {} }
    for n, field in ipairs(READ) do found[field] = values[n] end
    read[key] = found
  end
  return found
end
local function add(found, field, by)
  local sum = (found.added[field] or 0) + by
  if sum > EXACT_MAX or sum < -EXACT_MAX then
    found[field] = redis.call('HINCRBY', found.key, field, int(found.added[field] or 0))
    sum = tonumber(by)
  end
  found.added[field] = sum
end
local at_the_end = {
  takes_holds_since = function(key) return tonumber(counter(key).hb) end,
  add = function(key, field, by) add(counter(key), field, by) end,
}
local function write()
  for key, found in pairs(read) do
    local writes = {}
    for field, by in pairs(found.added) do
      local sum = (found[field] or 0) + by
      found[field] = sum
      if math.abs(sum) > EXACT_MAX then
        redis.call('HINCRBY', key, field, int(by))
      else
        writes[#writes + 1], writes[#writes + 2] = field, sum
      end
    end
    if #writes > 0 then redis.call('HSET', key, unpack(writes)) end
  end
end

-- Whether a counter takes charges: if it is incomplete it is left missing, for its rebuild will read these rows from the
-- ledger.
local function takes_charges(found, start, forget, pair)
  if found.cold then return true end
  if found.born then return tonumber(found.born) >= epoch end
  if (forget ~= 0 and forget <= now) or not starts_complete(env, epoch, pair, start) then return false end
  redis.call('HSET', found.key, 'born', int(now), 'hb', int(now))
  forget_at(found.key, forget, now)
  found.born, found.hb = now, now
  return true
end

-- The counters to charge by their number, each asked once whether it takes charges.
local to_charge = {}
local function counter_to_charge(n)
  local found = to_charge[n]
  if not found then
    found = counter(KEYS[FIRST_COUNTER + n - 1])
    found.takes_charges = takes_charges(found, unpack(call.counters[n]))
    to_charge[n] = found
  end
  return found
end

-- Whether a counter's rebuild read what this transaction wrote. Most reports of a script were written by the same one.
local function has_read(found, xid)
  if found.asked ~= xid then
    found.asked, found.has_read = xid, seen(tonumber(xid), found.xmin, found.xmax, found.xip)
  end
  return found.has_read
end

local function charge_counter(n, reservation, xid, amounts)
  local found = counter_to_charge(n)
  if not found.takes_charges then return end
  if found.cold then
    local texts = {}
    for m, amount in ipairs(amounts) do texts[m] = int(amount) end
    redis.call('HSET', found.key, 'p:' .. xid .. ':' .. reservation, table.concat(texts, ' '))
  elseif not has_read(found, xid) then
    for m, letter in ipairs(COUNTED) do
      if amounts[m] ~= 0 then add(found, USED[letter], amounts[m]) end
    end
  end
end

local function settle(reservation, report)
  local f = redis.call('HMGET', reservation, 'st', 'x')
  local is_known, before = f[1], f[2] or ','
  local charged, is_new = before, false
  for _, each in ipairs(report) do
    local xid, amounts, counters = each[1], each[2], each[3]
    local mark = ',' .. xid .. ','
    -- Transactions' numbers do not tell their order: one may begin before another and write after it.
    if not string.find(before, mark, 1, true) then
      is_new = true
      -- One may have charges of several kinds of counters.
      if not string.find(charged, mark, 1, true) then charged = charged .. xid .. ',' end
      for _, n in ipairs(counters) do charge_counter(n, reservation, xid, amounts) end
    end
  end
  if is_known then
    give_back(reservation, open, charge, at_the_end)
    tombstone(reservation, 'settled', 'x', charged)
  else
    remember(reservation, 'settled', 'x', charged)
  end
  return is_new and 1 or 0
end

local charged = {}
for n, report in ipairs(call.reports) do charged[n] = settle(KEYS[first_reservation + n - 1], report) end
write()

local states = {}
if call.states then
  for n = 1, #call.counters do
    local found = counter(KEYS[FIRST_COUNTER + n - 1])
    for m = 3, #FIELDS do states[#states + 1] = tonumber(found[FIELDS[m]] or 0) end
  end
end
return { 'DONE', charged, states }
