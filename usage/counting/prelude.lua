-- Shared by every script: usage/counting/store.py puts this text before each of them, and before it the tables that are
-- written from usage/metrics.py:
--   COUNTED = { 'r', 'i', 'o', 'c' }    letters of the amounts that counters keep: requests, input, output, nano-USD
--   PARTS = { t = { 'i', 'o' }, .. }    of each metric the amounts whose sum it is
--   FIELDS = { 'born', 'cold', 'ur', .. 'hr', .. }    of a counter, as they are read; one that is not there is false
--   BORN, COLD = 1, 2    where these stand among them
--   USED, HELD = { r = 'ur', .. }, { r = 'hr', .. }    the fields of each letter
--   USED_PLACE, HELD_PLACE = { r = 3, .. }, { r = 7, .. }    where these stand
--
-- One environment's keys share a hash tag, {7} here, so a cluster serves them together:
--   tv:{7}:env                     HASH   synced: the edition in force, as it was last found in PostgreSQL;
--                                         changing: transactions that may have changed it since;
--                                         turn: moves with each write of the two; run: of the server, see RUN;
--                                         epoch: since when counters are complete (ms);
--                                         t:<per>:<window>: since when the pair is tracked (ms); of some models
--                                         t:<per>:<window>:<models>, by a digest of their patterns, and so in all keys;
--                                         d:<per>:<window>: the pair was tracked before; zone: of the windows;
--                                         m:<per>:<window>:<models>: what names its models had beside their patterns;
--                                         carry: calls in flight hold in windows of another zone, see carry.lua
--   tv:{7}:eu:<user>               HASH   record: <epoch>|<what PostgreSQL holds of an end user>; changing, turn: as above
--   tv:{7}:c:<per>:<window>:<start>:<subject>
--                                  HASH   ur ui uo uc: used requests, input, output, nano-USD; hr hi ho hc: held;
--                                         hb: since when it takes holds (ms); born: when it became complete (ms);
--                                         xmin, xmax, xip: the ledger snapshot it was rebuilt from;
--                                         cold: marker of a rebuild under way, p:<xid>:<request>: charges meanwhile
--   tv:{7}:k:<per>:<subject>       ZSET   reservations in flight, by deadline (concurrency)
--   tv:{7}:r:<request>             HASH   st: open, settled, released, expired; am: amounts held; at, dl: made,
--                                         deadline (ms); dg: digest of the request; as: assessment; vs: readings;
--                                         by: the evaluate that made it, while no other was answered with it;
--                                         ks: keys of its counters; ha: since when it holds in these, if not since
--                                         `at` (ms); zs: keys of its concurrency sets;
--                                         x: ledger transactions charged: ,771,772,
--   tv:{7}:open, tv:{7}:charge     ZSET   open reservations by deadline: those to release, those to charge, on expiry
--   tv:{7}:decisions               STREAM blocked decisions on their way to PostgreSQL
--   tv:{7}:check                   STRING what the last comparison of counters and ledger found, as JSON
--   tv:{7}:unread                  STREAM those of them that the worker could not read
--
-- Processes of two versions share all this while a deploy goes on, so a script takes a field that is not there as empty.

local TOMBSTONE_MS = 3600 * 1000  -- how long an ended reservation is remembered
local IDLE_MS = 40 * 24 * 3600 * 1000

-- The run of the server that the caller's connection has reached: the last argument of every script.
local RUN = ARGV[#ARGV]
-- In place of an edition or a user's record: the caller has read it in PostgreSQL since its call began, so it need not be in
-- step with the store.
local JUST_READ = '*'

-- The store's clock, in ms. ARGV[1] moves it; only tests do.
local function clock()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000) + ARGV[1]
end

-- A whole number as text, where Lua makes the text: it would write 9e+15. Arguments of redis.call need it not.
local function int(n) return string.format('%.0f', n) end

-- Keys expire by the server's own clock.
local function expire_at(key, ms) redis.call('PEXPIREAT', key, int(ms - ARGV[1])) end

-- A counter is forgotten after its window; one whose window never ends (`at` 0), when unused for long. A forgotten one
-- that is asked for again is rebuilt from the ledger.
local function forget_at(key, at, now) expire_at(key, at == 0 and now + IDLE_MS or at) end

-- A set of calls in flight is kept for as long as the last of them may last.
local function keep_set(key)
  local last = redis.call('ZREVRANGE', key, 0, 0, 'WITHSCORES')
  if last[2] then expire_at(key, tonumber(last[2]) + TOMBSTONE_MS) end
end

-- The counters, read and written at once. Where many reservations end in one script, another table takes its place, which
-- reads and writes each counter once.
local each_at_once = {
  takes_holds_since = function(key) return tonumber(redis.call('HGET', key, 'hb')) end,
  add = function(key, field, by) redis.call('HINCRBY', key, field, by) end,
}

-- Takes a reservation's holds out of its counters. `f` are its fields am, ks, at and ha.
local function take_out(f, counters)
  local amounts = {}
  for amount in string.gmatch(f[1] or '', '%S+') do amounts[#amounts + 1] = amount end
  local held_since = tonumber(f[4] or f[3] or 0)
  for key in string.gmatch(f[2] or '', '%S+') do
    -- A counter that was lost and made anew does not carry the holds of before.
    local since = counters.takes_holds_since(key)
    if since and since <= held_since then
      for n, letter in ipairs(COUNTED) do
        -- A hold of an older version says nothing of a later metric.
        if (amounts[n] or '0') ~= '0' then counters.add(key, HELD[letter], '-' .. amounts[n]) end
      end
    end
  end
end

-- Takes an open reservation's holds back. True if it was open.
local function give_back(reservation, open, charge, counters)
  local f = redis.call('HMGET', reservation, 'am', 'ks', 'at', 'ha', 'st', 'zs')
  redis.call('ZREM', open, reservation)
  redis.call('ZREM', charge, reservation)
  if f[5] ~= 'open' then return false end
  take_out(f, counters)
  for key in string.gmatch(f[6] or '', '%S+') do redis.call('ZREM', key, reservation) end
  return true
end

-- What is remembered of a request for a while: how it ended, and further fields.
local function remember(reservation, state, ...)
  redis.call('HSET', reservation, 'st', state, ...)
  redis.call('PEXPIRE', reservation, TOMBSTONE_MS)
end

-- What is left of a reservation that ended. Of one that expired also what was evaluated: its report may come late.
local function tombstone(reservation, state, ...)
  redis.call('HDEL', reservation, 'vs', 'am', 'ks', 'zs', 'by')
  if state ~= 'expired' then redis.call('HDEL', reservation, 'as') end
  remember(reservation, state, ...)
end

-- Ends an open reservation without a charge.
local function free(reservation, state, open, charge)
  if give_back(reservation, open, charge, each_at_once) then tombstone(reservation, state) end
end

-- Frees up to `most` reservations whose deadline has passed. The number freed.
local function sweep(open, charge, now, most)
  local expired = redis.call('ZRANGEBYSCORE', open, '-inf', now, 'LIMIT', 0, most)
  for _, reservation in ipairs(expired) do free(reservation, 'expired', open, charge) end
  return #expired
end

-- An epoch later than any counter made until now, and later than the epoch before.
local function later_epoch(env)
  return int(math.max(clock(), tonumber(redis.call('HGET', env, 'epoch') or 0)) + 1)
end

-- Later than the turn before, also if the store was emptied between.
local function next_turn(key)
  return int(math.max(clock(), tonumber(redis.call('HGET', key, 'turn') or 0) + 1))
end

-- Whether what the caller knows of the environment may still be decided by. `known` holds its fields synced, changing, run
-- and epoch.
local function in_step(known, edition)
  if not known[4] or known[3] ~= RUN then return false end
  return edition == JUST_READ or (known[1] == edition and not known[2])
end

-- Whether a missing counter of this window is truly zero: the window began when the store was already complete and the
-- pair already tracked.
local function starts_complete(env, epoch, pair, start)
  local since = tonumber(redis.call('HGET', env, 't:' .. pair))
  return since ~= nil and start > epoch and start > since
end

-- Whether the ledger snapshot that a counter was rebuilt from had seen this transaction.
local function seen(xid, xmin, xmax, xip)
  if not xmin then return false end
  if xid < tonumber(xmin) then return true end
  if xid >= tonumber(xmax) then return false end
  return string.find(',' .. xip .. ',', ',' .. int(xid) .. ',', 1, true) == nil
end

-- GCRA: at most `per_minute` calls a minute, evenly or in one burst. The new state to store, or nil and the wait in ms.
local function rate(key, per_minute, now)
  local spacing = 60000 / per_minute
  local due = math.max(now, tonumber(redis.call('GET', key) or 0))
  if due - now > 60000 - spacing then return nil, math.ceil(due - now - 60000 + spacing) end
  return due + spacing, 0
end

local function take_rate(key, due, now)
  redis.call('SET', key, string.format('%.3f', due), 'PX', math.ceil(due - now) + 1)
end
