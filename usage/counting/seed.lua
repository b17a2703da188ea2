-- Complete a cold counter with what the ledger holds. Held amounts stay: they belong to open reservations.
--
-- KEYS  1 tv:{7}:env   2 tv:{7}:c:user:month:1793491200000:5e1f..
-- ARGV  1 0      clock offset, ms (tests only)
--       2 1795512345678   epoch that was in force when the ledger was read
--       3 760   4 775   5 763,770   the ledger snapshot: xmin, xmax, transactions under way
--       6 1795651200000   when the counter may be forgotten (ms; 0: when unused for long)
--       7.. 12 4488 528 2376000   what the ledger holds, in the order of COUNTED
-- Answers OK (also when another caller was first) | GONE: read the ledger again
local epoch, key = redis.call('HGET', KEYS[1], 'epoch'), KEYS[2]
local marker = redis.call('HGET', key, 'cold')
if not marker then return redis.call('HEXISTS', key, 'born') == 1 and 'OK' or 'GONE' end
if epoch ~= ARGV[2] then return 'GONE' end

local used = {}
for n = 1, #COUNTED do used[n] = tonumber(ARGV[6 + n]) end
local fields = redis.call('HGETALL', key)
for n = 1, #fields, 2 do
  local xid = string.match(fields[n], '^p:(%d+):')
  if xid then
    if not seen(tonumber(xid), ARGV[3], ARGV[4], ARGV[5]) then
      local m = 0
      for amount in string.gmatch(fields[n + 1], '%S+') do
        m = m + 1
        -- A later version may count more; it reads the rest from the ledger itself.
        if used[m] then used[m] = used[m] + tonumber(amount) end
      end
    end
    redis.call('HDEL', key, fields[n])
  end
end
redis.call('HDEL', key, 'cold')
for n, letter in ipairs(COUNTED) do redis.call('HSET', key, USED[letter], int(used[n])) end
redis.call('HSET', key, 'born', int(clock()), 'xmin', ARGV[3], 'xmax', ARGV[4], 'xip', ARGV[5])
redis.call('HSETNX', key, 'hb', int(clock()))
forget_at(key, tonumber(ARGV[6]), clock())
return 'OK'
