-- Opens, acknowledges or resets a durable subscription.
--
-- KEYS 1 the consumer: `f` filter, `ms` `sq` position, `n` number of the last fact up to it, `t` token of the newest
--        connection, `at` when it was last heard of (ms)
--      2 all consumers: name to token   3 log   4 meta
-- ARGV 1 open | ack | reset   2 name   3 idle_ms   4 ms   5 seq
--      6 open: filter ('' = the stored one, and for a new one none); ack: token ('' = whoever asks)
--      7 open: 1 = the position is acknowledged too, 0 = it is only where a new one begins   8 how many there may be
--
-- Reply: {OK, {f, ms, sq, n, at, t}, number of the last fact} {FILTER, stored} {unknown} {replaced} {full}
if redis.replicate_commands then redis.replicate_commands() end -- 6.2: TIME before writes

local call = redis.call
local function int(number) return string.format('%d', number) end
local key, all, log, meta = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local action, name, ms, seq, given, most = ARGV[1], ARGV[2], ARGV[4], ARGV[5], ARGV[6], tonumber(ARGV[8] or '0')

local function is_later(a_ms, a_seq, b_ms, b_seq)
  a_ms, a_seq, b_ms, b_seq = tonumber(a_ms), tonumber(a_seq), tonumber(b_ms), tonumber(b_seq)
  return a_ms > b_ms or (a_ms == b_ms and a_seq > b_seq)
end

local function number_of(entry)
  for i = 1, #entry[2], 2 do if entry[2][i] == 'n' then return tonumber(entry[2][i + 1]) end end
  return 0
end

-- Facts up to a position: those that are not there any more had the numbers below the first one's.
local function numbered(last)
  local entry = call('XREVRANGE', log, ms .. '-' .. seq, '-', 'COUNT', 1)[1]
  if entry then return number_of(entry) end
  entry = call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
  return entry and math.max(0, number_of(entry) - 1) or last
end

local stored = call('HMGET', key, 'f', 'ms', 'sq', 't')
local clock = call('HMGET', meta, 'ms', 'sq', 'n')
local last = tonumber(clock[3] or '0')
local function move() call('HSET', key, 'ms', ms, 'sq', seq, 'n', int(numbered(last))) end

if action == 'open' then
  if stored[1] and given ~= '' and given ~= stored[1] then return {'FILTER', stored[1]} end
  if not stored[1] then
    if call('HLEN', all) >= most then -- some may have expired
      for _, other in ipairs(call('HKEYS', all)) do
        if call('EXISTS', all .. ':' .. other) == 0 then call('HDEL', all, other) end
      end
      if call('HLEN', all) >= most then return {'full'} end
    end
    call('HSET', key, 'f', given == '' and '{}' or given)
    move()
  end
elseif not stored[1] then
  return {'unknown'}
end

if action == 'ack' and given ~= '' and given ~= stored[4] then return {'replaced'} end
if stored[1] and (action == 'ack' or ARGV[7] == '1') then
  -- A position that the log has lost holds nobody back.
  local is_lost = is_later(stored[2], stored[3], clock[1] or '0', clock[2] or '0')
  if is_lost or is_later(ms, seq, stored[2], stored[3]) then move() end
elseif action == 'reset' then
  move()
end

if action ~= 'ack' then -- the connection until now is one no more
  local token = int(call('HINCRBY', meta, 'ct', 1))
  call('HSET', key, 't', token)
  call('HSET', all, name, token)
end
local time = call('TIME')
call('HSET', key, 'at', int(tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)))
call('PEXPIRE', key, ARGV[3])
return {'OK', call('HMGET', key, 'f', 'ms', 'sq', 'n', 'at', 't'), int(last)}
