-- Appends a batch of events of one organization in one atomic step, or says why not and changes nothing.
--
-- KEYS 1 log  2 tok  3 meta  4 bell  5 work  6 delay  7 alias  8 parked  9 idempotency
--      then a pair (record, index) per conversation, then a pair (record, queue) per lane
-- ARGV 1 organization       2 now_ms ('' = server time)  3 fingerprint ('' = no idempotency key)  4 idempotency_ttl_ms
--      5 expected version of conversation 1: '' | number | 'exists' | 'absent'
--      6 control epoch this writer began with ('' = not fenced)   7 control: '' | take | release | holds   8 agent
--      9 lane token ('' = no lane held; else lane 1 is the held one)   10 owner   11 queue head that is being handled
--      12 what becomes of the held lane: '' | finish | retry | park | release   13 retry delay_ms   14 lease_ms
--      15 delta sequence ('' = none)   16 caps 'facts/unfinished work' (0 = none)   17 token retention_ms   18 organization's key prefix
--      19 conversations  20 lanes  21 events; then (id, address) per conversation, a name per lane, and per event:
--      kind f|d, conversation (0 = none), lane (0 = none), type, actor, run ('' = its own, '@i' = that of event i),
--      cause (same), data, personal, digest
--
-- Replies: {OK|DUPLICATE, positions, first_number, versions, next_position, next_fields, next_epoch, next_holder, epoch}
--          {REUSED} {FENCED, why, detail} {HELD, holder, epoch} {CONFLICT, version, last_position} {BACKLOG, length}
if redis.replicate_commands then redis.replicate_commands() end -- 6.2: TIME before writes

local call = redis.call
local function int(number) return string.format('%.0f', number) end

local fingerprint, expected, epoch, control, agent = ARGV[3], ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local token, head, outcome, delta_seq = ARGV[9], ARGV[11], ARGV[12], ARGV[15]
local n_conversations, n_lanes, n_events = tonumber(ARGV[19]), tonumber(ARGV[20]), tonumber(ARGV[21])
local lane_keys = 9 + 2 * n_conversations
local lane_names = 21 + 2 * n_conversations
local first_event = lane_names + n_lanes + 1

-- 1. The same input again gets the original answer, whatever has happened since.
if fingerprint ~= '' then
  local seen = call('GET', KEYS[9])
  if seen then
    local original, positions, number, versions = string.match(seen, '^(%S+)|([^|]*)|([^|]*)|([^|]*)$')
    if original ~= fingerprint then return {'REUSED'} end
    return {'DUPLICATE', positions, number, versions}
  end
end

-- 2. Fences: a writer that lost its lane, or whose conversation was taken over, must leave no trace.
local held, queue = KEYS[lane_keys + 1], KEYS[lane_keys + 2]
if token ~= '' then
  local lane = call('HMGET', held, 't', 'o', 'ds')
  if lane[1] ~= token or lane[2] ~= ARGV[10] then return {'FENCED', 'lane', lane[2] or ''} end
  if head ~= '' and call('LINDEX', queue, 0) ~= head then return {'FENCED', 'head', head} end
  if delta_seq ~= '' and tonumber(delta_seq) <= tonumber(lane[3] or '0') then
    return {'DUPLICATE', '', '', ''}
  end
end

local version, last, holder, current_epoch = {}, {}, '', '0'
for i = 1, n_conversations do
  local record = call('HMGET', KEYS[8 + 2 * i], 'v', 'id', 'ch', 'ce')
  version[i], last[i] = tonumber(record[1] or '0'), record[2] or ''
  if i == 1 then holder, current_epoch = record[3] or '', record[4] or '0' end
end
if epoch ~= '' and epoch ~= current_epoch then return {'FENCED', 'control', holder} end

-- 3. Control and expected version.
if control == 'take' and holder ~= '' then return {'HELD', holder, current_epoch} end
if (control == 'release' or control == 'holds') and holder ~= agent then return {'HELD', holder, current_epoch} end
if expected ~= '' then
  local actual = version[1]
  if (expected == 'exists' and actual == 0) or (expected == 'absent' and actual > 0)
    or (expected ~= 'exists' and expected ~= 'absent' and tonumber(expected) ~= actual) then
    return {'CONFLICT', int(actual), last[1]}
  end
end

-- 4. Back-pressure holds back inputs, never the results of work that was accepted.
if token == '' and n_events > 0 then
  local cap, cap_pending = string.match(ARGV[16], '^(%d+)/(%d+)$')
  local length = cap ~= '0' and call('XLEN', KEYS[1]) or -1
  local pending = cap_pending ~= '0' and n_lanes > 0 and tonumber(call('HGET', KEYS[3], 'q') or '0') or -1
  if length >= tonumber(cap) then return {'BACKLOG', int(length)} end
  if pending >= tonumber(cap_pending) then return {'BACKLOG', int(pending)} end
end

-- 5. Write. One clock for both streams; it never runs backwards, whatever the server's does.
local clock = call('HMGET', KEYS[3], 'ms', 'sq', 'n')
local ms, sq, n = tonumber(clock[1] or '-1'), tonumber(clock[2] or '0'), tonumber(clock[3] or '0')
if not clock[1] and call('EXISTS', KEYS[1]) + call('EXISTS', KEYS[2]) > 0 then -- record lost: read it off the streams
  for stream = 1, 2 do
    local tail = call('XREVRANGE', KEYS[stream], '+', '-', 'COUNT', 1)[1]
    if tail then
      local a, b = string.match(tail[1], '^(%d+)-(%d+)$')
      a, b = tonumber(a), tonumber(b)
      if a > ms or (a == ms and b > sq) then ms, sq = a, b end
      if stream == 1 then
        for f = 1, #tail[2], 2 do if tail[2][f] == 'n' then n = tonumber(tail[2][f + 1]) end end
      end
    end
  end
end
local now
if ARGV[2] == '' then
  local time = call('TIME')
  now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
else
  now = tonumber(ARGV[2])
end

local function ring(lane, key) -- the doorbell of a lane that has work and nobody on it
  call('HSET', key, 'w', call('XADD', KEYS[5], '*', 'o', ARGV[1], 'l', lane))
end

local positions, versions, first_number, touched, queued = {}, {}, n + 1, {}, 0
local retention = tonumber(ARGV[17])
for i = 1, n_events do
  local at = first_event + (i - 1) * 10
  local kind, conversation, lane = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local run, cause = ARGV[at + 5], ARGV[at + 6]
  if now > ms then ms, sq = now, 0 else sq = sq + 1 end
  local id = int(ms) .. '-' .. int(sq)
  positions[i] = id
  if string.sub(run, 1, 1) == '@' then run = positions[tonumber(string.sub(run, 2))] end
  if string.sub(cause, 1, 1) == '@' then cause = positions[tonumber(string.sub(cause, 2))] end
  local name = conversation > 0 and ARGV[20 + 2 * conversation] or ''
  if kind == 'd' then
    call('XADD', KEYS[2], 'MINID', '~', int(math.max(0, ms - retention)), id, 't', ARGV[at + 3], 'c', name, 'r', run,
      'k', cause, 'a', ARGV[at + 4], 'd', ARGV[at + 7], 'p', ARGV[at + 8])
    local index = ARGV[18] .. 'run:' .. run .. ':d'
    call('RPUSH', index, id)
    call('PEXPIRE', index, retention)
    if conversation > 0 then call('HSET', KEYS[8 + 2 * conversation], 'dr', run) end -- whose deltas came last
    versions[i] = ''
  else
    n = n + 1
    local v = ''
    if conversation > 0 then
      version[conversation] = version[conversation] + 1
      v = int(version[conversation])
      if v == '1' and ARGV[21 + 2 * conversation] ~= '' then
        call('HSET', KEYS[7], name, ARGV[21 + 2 * conversation])
      end
      call('RPUSH', KEYS[9 + 2 * conversation], id)
      last[conversation], touched[conversation] = id, true
    end
    versions[i] = v
    call('XADD', KEYS[1], id, 't', ARGV[at + 3], 'c', name, 'n', int(n), 'v', v, 'r', run, 'k', cause,
      'a', ARGV[at + 4], 'd', ARGV[at + 7], 'p', ARGV[at + 8], 'h', ARGV[at + 9])
    if run ~= '' then call('RPUSH', ARGV[18] .. 'run:' .. run .. ':f', id) end
    if lane > 0 then
      queued = queued + 1
      if call('RPUSH', KEYS[lane_keys + 2 * lane], id) == 1 then
        local key = KEYS[lane_keys + 2 * lane - 1]
        if call('HGET', key, 's') ~= 'parked' then ring(ARGV[lane_names + lane], key) end
      end
    end
  end
end
if n_events > 0 then
  call('HSET', KEYS[3], 'ms', int(ms), 'sq', int(sq), 'n', int(n))
  for i in pairs(touched) do call('HSET', KEYS[8 + 2 * i], 'v', int(version[i]), 'id', last[i]) end
  if delta_seq ~= '' then call('HSET', held, 'ds', delta_seq) end
  call('XADD', KEYS[4], 'MAXLEN', '~', 4096, '*', 'o', ARGV[1])
end
if control == 'take' or control == 'release' then
  current_epoch = int(tonumber(current_epoch) + 1)
  call('HSET', KEYS[10], 'ch', control == 'take' and agent or '', 'ce', current_epoch)
end

-- 6. The held lane: next item, a retry later, parked, or handed back.
local next_position, next_fields, next_epoch, next_holder = '', {}, '0', ''
if outcome ~= '' then
  if outcome == 'finish' and call('LPOP', queue) then queued = queued - 1 end
  local upcoming = call('LINDEX', queue, 0)
  if outcome == 'finish' and upcoming then
    call('HSET', held, 'a', '1', 'ds', '0', 'x', int(now + tonumber(ARGV[14])))
    next_position = upcoming
    local entry = call('XRANGE', KEYS[1], upcoming, upcoming)[1]
    if entry then
      next_fields = entry[2]
      for i = 1, #entry[2], 2 do
        if entry[2][i] == 'c' and entry[2][i + 1] ~= '' then
          local state = call('HMGET', ARGV[18] .. 'c:' .. entry[2][i + 1] .. ':m', 'ce', 'ch')
          next_epoch, next_holder = state[1] or '0', state[2] or ''
        end
      end
    end
  else
    local doorbell = call('HGET', held, 'w')
    if doorbell and doorbell ~= '' then
      call('XACK', KEYS[5], 'workers', doorbell)
      call('XDEL', KEYS[5], doorbell)
    end
    local lane = ARGV[lane_names + 1]
    if not upcoming then
      call('DEL', held)
    elseif outcome == 'retry' then
      call('HSET', held, 'o', '', 'x', '0', 'w', '')
      call('ZADD', KEYS[6], int(now + tonumber(ARGV[13])), ARGV[1] .. '|' .. lane)
    elseif outcome == 'park' then
      call('HSET', held, 'o', '', 'x', '0', 'w', '', 's', 'parked')
      call('HSET', KEYS[8], lane, upcoming)
    else
      local attempts = tonumber(call('HGET', held, 'a') or '1')
      call('HSET', held, 'o', '', 'x', '0', 'a', int(math.max(0, attempts - 1)))
      ring(lane, held)
    end
  end
end

if queued ~= 0 then call('HINCRBY', KEYS[3], 'q', int(queued)) end -- work that was accepted and is not finished

local ids, numbers = table.concat(positions, ' '), int(first_number)
local seen_versions = table.concat(versions, ' ')
if fingerprint ~= '' then
  call('SET', KEYS[9], fingerprint .. '|' .. ids .. '|' .. numbers .. '|' .. seen_versions, 'PX', ARGV[4])
end
return {'OK', ids, numbers, seen_versions, next_position, next_fields, next_epoch, next_holder, current_epoch}
