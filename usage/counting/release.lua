-- Give a hold back: the call never went out.
--
-- KEYS  1 tv:{7}:r:90ab..   2 tv:{7}:open   3 tv:{7}:charge
-- ARGV  1 0   clock offset, ms (tests only)
-- Answers RELEASED (also when it was before) | SETTLED | GONE
local state = redis.call('HGET', KEYS[1], 'st')
if not state then return 'GONE' end
if state == 'settled' then return 'SETTLED' end
free(KEYS[1], 'released', KEYS[2], KEYS[3])
return 'RELEASED'
