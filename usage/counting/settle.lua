-- Turn a hold into what the ledger recorded, exactly once. Runs after the ledger's transaction committed.
--
-- KEYS  1 tv:{7}:env   2 tv:{7}:r:90ab..   3 tv:{7}:open   4 tv:{7}:charge
--       5.. the counters to charge, of the windows of the ledger row's charged_at
-- ARGV  1 0      clock offset, ms (tests only)
--       2 41     revision whose tracked pairs the counters are
--       3 2      number of counters
--       4 1      number of charges: the ledger's movements of this request, oldest first
--       5.. per counter: window start (ms), when it may be forgotten (ms; 0: when unused for long), pair
--        .. per charge: ledger transaction, requests, input tokens, output tokens, nano-USD   771 1 374 44 198000
-- Answers STALE | DONE charged(1/0) used and held of each counter: ur ui uo uc hr hi ho hc ..
local env, reservation = KEYS[1], KEYS[2]
local now = clock()
local known = redis.call('HMGET', env, 'synced', 'rev', 'epoch')
if known[1] ~= ARGV[2] or known[2] ~= ARGV[2] then return { 'STALE' } end
local epoch = tonumber(known[3])
local counters, charges = tonumber(ARGV[3]), tonumber(ARGV[4])
local charged_before = redis.call('HGET', reservation, 'x') or ','

-- Transactions' numbers do not tell their order: one may begin before another and write after it.
local function is_new(xid) return not string.find(charged_before, ',' .. xid .. ',', 1, true) end

local function charge_counter(key, start, forget, pair, first)
  local f = redis.call('HMGET', key, 'born', 'cold', 'xmin', 'xmax', 'xip')
  if not f[1] and not f[2] then
    -- An incomplete counter is left missing: its rebuild will read this row from the ledger.
    if (forget ~= 0 and forget <= now) or not starts_complete(env, epoch, pair, start) then return end
    redis.call('HSET', key, 'born', int(now), 'hb', int(now))
    forget_at(key, forget, now)
  elseif not f[2] and tonumber(f[1]) < epoch then
    return
  end
  for n = 0, charges - 1 do
    local arg = first + n * 5
    local xid = tonumber(ARGV[arg])
    if is_new(ARGV[arg]) then
      if f[2] then
        redis.call('HSET', key, 'p:' .. ARGV[arg] .. ':' .. reservation,
          table.concat({ ARGV[arg + 1], ARGV[arg + 2], ARGV[arg + 3], ARGV[arg + 4] }, ' '))
      elseif not seen(xid, f[3], f[4], f[5]) then
        for m, metric in ipairs(METRICS) do redis.call('HINCRBY', key, 'u' .. metric, ARGV[arg + m]) end
      end
    end
  end
end

local first_charge = 5 + counters * 3
local charged, charged_now = 0, charged_before
for n = 0, charges - 1 do
  local xid = ARGV[first_charge + n * 5]
  if is_new(xid) then
    charged, charged_now = 1, charged_now .. xid .. ','
  end
end
if charged == 1 then
  for n = 1, counters do
    local arg = 5 + (n - 1) * 3
    charge_counter(KEYS[4 + n], tonumber(ARGV[arg]), tonumber(ARGV[arg + 1]), ARGV[arg + 2], first_charge)
  end
end
free(reservation, 'settled', KEYS[3], KEYS[4])
redis.call('HSET', reservation, 'st', 'settled', 'x', charged_now)
redis.call('PEXPIRE', reservation, TOMBSTONE_MS)

local answer = { 'DONE', charged }
for n = 1, counters do
  local f = redis.call('HMGET', KEYS[4 + n], 'ur', 'ui', 'uo', 'uc', 'hr', 'hi', 'ho', 'hc')
  for m = 1, 8 do answer[#answer + 1] = tonumber(f[m] or 0) end
end
return answer
