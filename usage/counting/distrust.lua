-- From now on no counter of the environment counts as complete: each is rebuilt from the ledger before its next use.
--
-- KEYS  1 tv:{7}:env
-- ARGV  1 0   clock offset, ms (tests only)
redis.call('HSET', KEYS[1], 'epoch', later_epoch(KEYS[1]), 'turn', next_turn(KEYS[1]))
redis.call('HDEL', KEYS[1], 'synced')
return 'OK'
