-- Operations on lanes that append nothing: take, finish, renew, postpone, due. Whatever ends an item together with events,
-- retries or parks it, gives a lane back or sets a parked one going again is part of append.lua.
--
-- One call is about any number of lanes of one shard; each of them is refused or done by itself.
--
-- KEYS 1 work; every other name is made from it as keys.py makes it: all share its hash tag
-- ARGV 1 operation  2 now_ms ('' = server time)  3 owner  4 lease_ms  5 pause_ms; then per lane: organization, lane,
--      take: doorbell the worker answers ('' = none), otherwise the token; finish, renew: the item, otherwise ''
--
-- Replies, a list of them:
--          take     {OK, 'token position attempts epoch dropped', holder, fields} {EMPTY} {PARKED}
--                   {BUSY, owner, ms_left} {STALE}
--          finish   {OK, then for each of the next items: position, fields, epoch, holder} {FENCED, why, detail}
--          renew    {OK, epoch, holder} {FENCED, owner}
--          postpone {OK} {FENCED, owner}
--          due      {OK} {EMPTY}
if redis.replicate_commands then redis.replicate_commands() end -- 6.2: TIME before writes

local call = redis.call
local owner, lease_ms, pause_ms = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local AHEAD, ROOM = 4, 65536 -- items of one lane at once, as in append.lua; bytes in one call beyond one item of each
local format = string.format
local function int(number) return format('%d', number) end
local LAST = int(2 * AHEAD - 1) -- of the items that end and follow, as text: commands print a number with all digits

local work = KEYS[1]
local shard = string.sub(work, 1, -5)
local delay = shard .. 'delay'

local now -- and when what is taken or renewed now runs out
if ARGV[2] == '' then
  local time = call('TIME')
  now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
else
  now = tonumber(ARGV[2])
end
local expiry, length = int(now + lease_ms), int(lease_ms)

local silenced, asked, finished = {}, {}, {} -- doorbells; lanes and finished items by organization
local room = ROOM

local function prefix_of(organization) return shard .. organization .. ':' end
local function record_of(organization, lane) return prefix_of(organization) .. 'l:' .. lane .. ':m' end
local function queue_of(organization, lane) return prefix_of(organization) .. 'l:' .. lane .. ':q' end
local function delayed(organization, lane) return organization .. '|' .. lane end

local function silence(doorbell)
  if doorbell and doorbell ~= '' then silenced[#silenced + 1] = doorbell end
end

local function ring(organization, lane)
  call('HSET', record_of(organization, lane), 'w', call('XADD', work, '*', 'o', organization, 'l', lane))
end

-- Lanes that ring one after the other mostly have their items side by side, and a stream's entries cost half when they
-- are read together: as many as may be wanted, unless some of the last ones were not.
local near = {} -- by organization

local function entry_near(organization, position)
  local known = near[organization] or {unread = asked[organization], unwanted = 0}
  if not known[position] then
    local size = known.unwanted == 0 and math.min(known.size and 4 * known.size or 2, known.unread) or 1
    known = {size = size, unwanted = size, unread = known.unread}
    near[organization] = known
    for _, entry in ipairs(call('XRANGE', prefix_of(organization) .. 'log', position, '+', 'COUNT', size)) do
      known[entry[1]] = entry[2]
    end
  end
  known.unwanted, known.unread = known.unwanted - 1, known.unread - 1
  return known[position] or {}
end

local function entry_alone(prefix, position)
  local entry = call('XRANGE', prefix .. 'log', position, position)[1]
  return entry and entry[2] or {}
end

-- The item itself, and who speaks in the conversation that it belongs to. Its names and values are joined by NUL, which
-- none of them holds but the digest, which is the last: to pass twenty strings on costs more than to read them.
local function item(prefix, fields)
  local packed = table.concat(fields, '\0')
  for i = 1, #fields, 2 do
    if fields[i] == 'c' and fields[i + 1] ~= '' then
      local state = call('HMGET', prefix .. 'c:' .. fields[i + 1] .. ':m', 'ce', 'ch')
      return packed, state[1] or '0', state[2] or ''
    end
  end
  return packed, '0', ''
end

local given = {} -- the last token of each organization, of those that were drawn for this call

local function next_token(organization) -- never used twice, even after the lane's record is gone
  if not given[organization] then
    local prefix, wanted = prefix_of(organization), asked[organization]
    local last = call('HINCRBY', prefix .. 'meta', 'tk', int(wanted))
    if last <= wanted then
      -- The first ones, or the counter was lost: the microseconds of now are more than were ever given out.
      local latest = call('XREVRANGE', prefix .. 'log', '+', '-', 'COUNT', 1)[1]
      last = math.max(now, latest and tonumber(string.match(latest[1], '^%d+')) or 0) * 1000 + wanted - 1
      call('HSET', prefix .. 'meta', 'tk', int(last))
    end
    given[organization] = last - wanted
  end
  given[organization] = given[organization] + 1
  return int(given[organization])
end

local operations = {}

function operations.take(organization, lane, answered)
  local name, queue = record_of(organization, lane), queue_of(organization, lane)
  local record = call('HMGET', name, 'o', 'x', 'xl', 'a', 's', 'w', 'd')
  local doorbell, holder, until_ms = record[6] or '', record[1] or '', tonumber(record[2] or '0')
  if answered ~= '' and doorbell ~= answered then -- an old bell: the lane has a newer one, or waits, or is done
    silence(answered)
    if doorbell ~= '' then return {'STALE'} end
  end
  local position = call('LINDEX', queue, '0')
  if not position then
    silence(doorbell)
    call('DEL', name)
    return {'EMPTY'}
  end
  if record[5] == 'parked' then silence(doorbell) return {'PARKED'} end
  if answered ~= '' and doorbell == '' and call('ZSCORE', delay, delayed(organization, lane)) then return {'STALE'} end
  if holder ~= '' and holder ~= owner and until_ms > now then
    local longest = tonumber(record[3] or '') or until_ms - now
    if until_ms - now > longest then -- the clock was set back: from here on it lasts once more as long as it is
      until_ms = now + longest
      call('HSET', name, 'x', int(until_ms))
    end
    return {'BUSY', holder, int(until_ms - now)}
  end
  if doorbell == '' then ring(organization, lane) end
  local attempts, token = record[4] and int(record[4] + 1) or '1', next_token(organization)
  call('HSET', name, 't', token, 'o', owner, 'x', expiry, 'xl', length, 'a', attempts, 'ds', '0')
  local fields, epoch, speaks = item(prefix_of(organization), entry_near(organization, position))
  local dropped = record[7] == position and '1' or '0'
  return {'OK', token .. ' ' .. position .. ' ' .. attempts .. ' ' .. epoch .. ' ' .. dropped, speaks, fields}
end

-- Ends the item, and those before it: to go on with a later one says that the earlier left nothing.
function operations.finish(organization, lane, token, last)
  local name, queue = record_of(organization, lane), queue_of(organization, lane)
  local record = call('HMGET', name, 't', 'o', 'w')
  if record[1] ~= token or record[2] ~= owner then return {'FENCED', 'lane', record[2] or ''} end
  local items, done = call('LRANGE', queue, '0', LAST), nil
  for i = 1, AHEAD do if items[i] == last then done = i end end
  if not done then return {'FENCED', 'head', last} end
  finished[organization] = (finished[organization] or 0) + done
  if not items[done + 1] then
    call('DEL', name, queue)
    silence(record[3])
    return {'OK'}
  end
  call('LTRIM', queue, done, -1)
  call('HSET', name, 'a', '1', 'ds', '0', 'x', expiry, 'xl', length)
  local reply, prefix = {'OK'}, prefix_of(organization)
  for i = done + 1, math.min(#items, done + AHEAD) do
    local fields, epoch, holder = item(prefix, entry_alone(prefix, items[i]))
    room = room - #fields
    if i > done + 1 and room < 0 then break end
    for _, part in ipairs({items[i], fields, epoch, holder}) do reply[#reply + 1] = part end
  end
  return reply
end

function operations.renew(organization, lane, token, position)
  local name = record_of(organization, lane)
  local record = call('HMGET', name, 't', 'o')
  if record[1] ~= token or record[2] ~= owner then return {'FENCED', record[2] or ''} end
  call('HSET', name, 'x', expiry, 'xl', length)
  local _, epoch, holder = item(prefix_of(organization), entry_alone(prefix_of(organization), position))
  return {'OK', epoch, holder}
end

function operations.postpone(organization, lane, token) -- the attempt did not count: it was too early
  local name = record_of(organization, lane)
  local record = call('HMGET', name, 't', 'o', 'a', 'w')
  if record[1] ~= token or record[2] ~= owner then return {'FENCED', record[2] or ''} end
  silence(record[4])
  call('HSET', name, 'o', '', 'x', '0', 'w', '', 'a', int(math.max(0, tonumber(record[3] or '1') - 1)))
  call('ZADD', delay, int(now + pause_ms), delayed(organization, lane))
  return {'OK'}
end

function operations.due(organization, lane)
  if call('ZREM', delay, delayed(organization, lane)) == 0 then return {'EMPTY'} end
  ring(organization, lane)
  return {'OK'}
end

local operation = operations[ARGV[1]]
if not operation then return redis.error_reply('unknown operation ' .. ARGV[1]) end
for i = 6, #ARGV, 4 do asked[ARGV[i]] = (asked[ARGV[i]] or 0) + 1 end
local replies = {}
for i = 6, #ARGV, 4 do replies[#replies + 1] = operation(ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]) end

if #silenced > 0 then
  call('XACK', work, 'workers', unpack(silenced))
  -- All that was answered before the first that is not can be cut off; to find each of them there costs far more.
  local first = redis.pcall('XPENDING', work, 'workers')[2]
  if not first or call('XTRIM', work, 'MINID', first) < #silenced then call('XDEL', work, unpack(silenced)) end
end
for organization, items in pairs(finished) do
  local meta = prefix_of(organization) .. 'meta'
  if call('HINCRBY', meta, 'q', int(-items)) < 0 then call('HSET', meta, 'q', '0') end -- as in append.lua
end
return replies
