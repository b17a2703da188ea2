-- Free expired reservations whose policy says release.
--
-- KEYS  1 tv:{7}:open   2 tv:{7}:charge
-- ARGV  1 0     clock offset, ms (tests only)
--       2 500   how many at most
-- Answers the number freed
return sweep(KEYS[1], KEYS[2], clock(), ARGV[2])
