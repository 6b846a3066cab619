-- Spends from a budget that refills when its window is over, or says how long that takes and changes nothing.
--
-- KEYS 1 the budget: a hash of `s` (start of its window, ms) and `n` (spent in it)
-- ARGV 1 now_ms ('' = server time)   2 limit   3 window_ms   4 cost (0 = only ask whether 1 would be allowed)
--
-- Reply: {allowed 1|0, remaining, reset_ms}
if redis.replicate_commands then redis.replicate_commands() end -- 6.2: TIME before writes

local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end
local limit, window, cost = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])

local state = redis.call('HMGET', KEYS[1], 's', 'n')
local start, spent = tonumber(state[1] or '0'), tonumber(state[2] or '0')
-- A start in the future is a clock that was set back: without a new window the budget might never refill.
if not state[1] or now >= start + window or now < start then start, spent = now, 0 end

local reset = start + window - now
if spent + math.max(1, cost) > limit then return {0, math.max(0, limit - spent), reset} end
if cost == 0 then return {1, limit - spent, reset} end
spent = spent + cost
redis.call('HSET', KEYS[1], 's', string.format('%d', start), 'n', string.format('%d', spent))
redis.call('PEXPIRE', KEYS[1], string.format('%d', reset))
return {1, limit - spent, reset}
