-- Give a hold back: the call never went out.
--
-- KEYS  1 tv:{7}:r:90ab..   2 tv:{7}:open   3 tv:{7}:charge
-- ARGV  1 0   clock offset, ms (tests only)
--       2 0   1: also one that expired and is to be charged; only who knows that it is not to be may say so
--       3 51ab..   only if this evaluate made it and no other was answered with it; empty: whoever did
-- Answers RELEASED (also when it was before) | SETTLED (also when it expired and is to be charged) | GONE
local f = redis.call('HMGET', KEYS[1], 'st', 'dl', 'by')
local state = f[1]
if not state or (ARGV[3] ~= '' and f[3] ~= ARGV[3]) then return 'GONE' end
if state == 'settled' then return 'SETTLED' end
if state == 'open' and ARGV[2] ~= '1' and tonumber(f[2] or 0) <= clock() and redis.call('ZSCORE', KEYS[3], KEYS[1]) then
  return 'SETTLED'
end
free(KEYS[1], 'released', KEYS[2], KEYS[3])
return 'RELEASED'
