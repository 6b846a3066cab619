-- Operations on one lane that append nothing: take, renew, postpone, due. Giving a lane back with events, and setting a
-- parked one going again, is part of append.lua.
--
-- KEYS 1 record  2 queue  3 work  4 delay  5 meta  6 log
-- ARGV 1 operation  2 now_ms ('' = server time)  3 organization  4 lane  5 owner  6 token  7 lease_ms
--      8 doorbell the worker answers ('' = none)  9 conversation key prefix  10 pause_ms
--
-- Replies: take    {OK, token, position, attempts, fields, epoch, holder, dropped} {EMPTY} {PARKED}
--                  {BUSY, owner, ms_left} {STALE}
--          renew   {OK, epoch, holder} {FENCED, owner}
--          postpone {OK} {FENCED, owner}
--          due     {OK} {EMPTY}
if redis.replicate_commands then redis.replicate_commands() end -- 6.2: TIME before writes

local call = redis.call
local operation, organization, lane, owner, token = ARGV[1], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local function int(number) return string.format('%.0f', number) end

local now
if ARGV[2] == '' then
  local time = call('TIME')
  now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
else
  now = tonumber(ARGV[2])
end

local record = call('HMGET', KEYS[1], 't', 'o', 'x', 'a', 's', 'w', 'd')
local doorbell = record[6] or ''

local function silence(entry)
  if entry == '' then return end
  call('XACK', KEYS[3], 'workers', entry)
  call('XDEL', KEYS[3], entry)
end

local function ring()
  call('HSET', KEYS[1], 'w', call('XADD', KEYS[3], '*', 'o', organization, 'l', lane))
end

local function control(position) -- who speaks in the conversation that the item belongs to, and the item itself
  local entry = call('XRANGE', KEYS[6], position, position)[1]
  if not entry then return {}, '0', '' end
  for i = 1, #entry[2], 2 do
    if entry[2][i] == 'c' and entry[2][i + 1] ~= '' then
      local state = call('HMGET', ARGV[9] .. entry[2][i + 1] .. ':m', 'ce', 'ch')
      return entry[2], state[1] or '0', state[2] or ''
    end
  end
  return entry[2], '0', ''
end

local function next_token() -- never used twice, even after the lane's record is gone
  local following = call('HINCRBY', KEYS[5], 'tk', 1)
  if following > 1 then return int(following) end
  -- The first one, or the counter was lost: the microseconds of now are more than were ever given out.
  local latest = call('XREVRANGE', KEYS[6], '+', '-', 'COUNT', 1)[1]
  following = math.max(now, latest and tonumber(string.match(latest[1], '^%d+')) or 0) * 1000
  call('HSET', KEYS[5], 'tk', int(following))
  return int(following)
end

if operation == 'take' then
  local answered = ARGV[8]
  if answered ~= '' and doorbell ~= answered then -- an old bell: the lane has a newer one, or waits, or is done
    silence(answered)
    if doorbell ~= '' then return {'STALE'} end
  end
  local position = call('LINDEX', KEYS[2], 0)
  if not position then
    silence(doorbell)
    call('DEL', KEYS[1])
    return {'EMPTY'}
  end
  if record[5] == 'parked' then silence(doorbell) return {'PARKED'} end
  if answered ~= '' and doorbell == '' and call('ZSCORE', KEYS[4], organization .. '|' .. lane) then return {'STALE'} end
  if record[2] and record[2] ~= '' and record[2] ~= owner and tonumber(record[3] or '0') > now then
    return {'BUSY', record[2], int(tonumber(record[3]) - now)}
  end
  if doorbell == '' then ring() end
  local attempts = int(tonumber(record[4] or '0') + 1)
  local new_token = next_token()
  call('HSET', KEYS[1], 't', new_token, 'o', owner, 'x', int(now + tonumber(ARGV[7])), 'a', attempts, 'ds', '0')
  local fields, epoch, holder = control(position)
  return {'OK', new_token, position, attempts, fields, epoch, holder, record[7] == position and 1 or 0}
end

if operation == 'renew' then
  if record[1] ~= token or record[2] ~= owner then return {'FENCED', record[2] or ''} end
  call('HSET', KEYS[1], 'x', int(now + tonumber(ARGV[7])))
  local position = call('LINDEX', KEYS[2], 0)
  if not position then return {'OK', '0', ''} end
  local _, epoch, holder = control(position)
  return {'OK', epoch, holder}
end

if operation == 'postpone' then -- the attempt did not count: it was too early
  if record[1] ~= token or record[2] ~= owner then return {'FENCED', record[2] or ''} end
  silence(doorbell)
  call('HSET', KEYS[1], 'o', '', 'x', '0', 'w', '', 'a', int(math.max(0, tonumber(record[4] or '1') - 1)))
  call('ZADD', KEYS[4], int(now + tonumber(ARGV[10])), organization .. '|' .. lane)
  return {'OK'}
end

if operation == 'due' then
  if call('ZREM', KEYS[4], organization .. '|' .. lane) == 0 then return {'EMPTY'} end
  ring()
  return {'OK'}
end

return redis.error_reply('unknown operation ' .. operation)
