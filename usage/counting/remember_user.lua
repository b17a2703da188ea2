-- Keep what PostgreSQL holds of an end user beside the counters.
--
-- KEYS  1 tv:{7}:env   2 tv:{7}:u:5e1f..
-- ARGV  1 0       clock offset, ms (tests only)
--       2 free|   the record
--       3 900     how long to keep it, s
--       4 1795512345678   epoch in force when PostgreSQL was read; '' = this is a change, it always counts
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if not epoch then return 'STALE' end
if ARGV[4] ~= '' then
  -- A reader must not undo a change that was written while it read.
  if ARGV[4] ~= epoch then return 'STALE' end
  local known = redis.call('GET', KEYS[2])
  if known and string.sub(known, 1, #epoch + 1) == epoch .. '|' then return 'KNOWN' end
end
redis.call('SET', KEYS[2], epoch .. '|' .. ARGV[2], 'EX', ARGV[3])
return 'OK'
