-- Expired reservations whose policy charges them, oldest first; by the store's clock, as all deadlines are.
--
-- KEYS  1 tv:{7}:charge
-- ARGV  1 0     clock offset, ms (tests only)
--       2 200   how many at most
-- Answers their keys
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', clock(), 'LIMIT', 0, ARGV[2])
