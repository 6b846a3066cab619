-- A leader's lease: taken, renewed or released by whoever holds it, in one step.
--
-- KEYS 1 the lease: a hash of `o` (owner), `x` (expires, ms), `f` (fence). It does not expire by itself: the fence
--        has to grow over all leaders there ever were, so it must outlive each lease.
-- ARGV 1 operation: acquire | renew | release   2 now_ms ('' = server time)   3 owner   4 fence ('' for acquire)
--      5 ttl_ms
--
-- Reply: {'OK', fence} or {'HELD', owner, left_ms} or {'LOST'}
if redis.replicate_commands then redis.replicate_commands() end -- 6.2: TIME before writes

local now = tonumber(ARGV[2])
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end
local owner = ARGV[3]
local expires = string.format('%d', now + tonumber(ARGV[5]))

local lease = redis.call('HMGET', KEYS[1], 'o', 'x', 'f')
local holder, left, fence = lease[1] or '', tonumber(lease[2] or '0') - now, lease[3] or '0'
local held = holder ~= '' and left > 0 and left <= tonumber(ARGV[5]) -- more is left only where the clock was set back

if ARGV[1] == 'acquire' then
  if held and holder ~= owner then return {'HELD', holder, string.format('%d', left)} end
  if not held then fence = string.format('%d', tonumber(fence) + 1) end
  redis.call('HSET', KEYS[1], 'o', owner, 'x', expires, 'f', fence)
  return {'OK', fence}
end

if not held or holder ~= owner or fence ~= ARGV[4] then return {'LOST'} end
if ARGV[1] == 'renew' then
  redis.call('HSET', KEYS[1], 'x', expires)
else
  redis.call('HSET', KEYS[1], 'o', '', 'x', '0')
end
return {'OK', fence}
