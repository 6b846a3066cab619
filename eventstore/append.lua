-- Appends a batch of events of one organization in one atomic step, or says why not and changes nothing.
--
-- KEYS 1 log; every other name is made from it as keys.py makes it: all share the log's hash tag
-- ARGV 1 now_ms ('' = server time)   2 idempotency key ('' = none)   3 fingerprint   4 idempotency_ttl_ms
--      5 cap on facts   6 cap on unfinished work (0 = none)   7 token retention_ms   8 events   9 addresses; then per event:
--      kind f|d, conversation ('' = none), lane ('' = none), type, actor, run ('' = its own, '@i' = that of event i),
--      cause (same), data, personal, digest; then (conversation, address) per address; then, where anything is guarded:
--      1 the conversation that is ('' = none)   2 expected version: '' | number | 'exists' | 'absent'
--      3 control epoch this writer began with ('' = not fenced)   4 control: '' | take | release | holds   5 agent
--      6 lane token ('' = no lane held)   7 owner   8 held lane   9 item that is being handled: those before it in the
--      queue are done, and left nothing
--      10 what becomes of the held lane: '' | finish | retry | park | release, or of a parked one, which nobody holds
--      (6 is ''; 9 is the item at which it stopped): redrive | drop   11 retry delay_ms   12 lease_ms
--      13 delta sequence ('' = none)
--
-- Replies: {OK|DUPLICATE, positions, first_number, versions, next_position, next_fields, next_epoch, next_holder, epoch}
--          (the last five where anything is guarded only)
--          {REUSED} {FENCED, why, detail} {HELD, holder, epoch} {CONFLICT, version, last_position} {BACKLOG, length}
if redis.replicate_commands then redis.replicate_commands() end -- 6.2: TIME before writes

local call, KEYS, ARGV = redis.call, KEYS, ARGV -- a global is looked up each time that it is used
local AHEAD = 4 -- items of one lane that a worker may have in hand, as in lanes.lua
local EXPIRY_STEP_MS = 3600000 -- so much longer lives a run's list, which need not be told to with every delta
local TRIM_EVERY_MS = 16 -- to look for what can go costs as much as to append, and little comes together in between
local AT = string.byte('@')
local format, INT = string.format, '%d'

-- Names are written out, and made where they are needed: a function is made anew by each call, and all that were here
-- cost a fourteenth of an append.
local prefix = string.sub(KEYS[1], 1, -4)
local shard = string.match(prefix, '^tl:{[^}]*}:')
local org = string.sub(prefix, #shard + 1, -2)
local meta = prefix .. 'meta'

local key, fingerprint, n_events, n_addresses = ARGV[2], ARGV[3], tonumber(ARGV[8]), tonumber(ARGV[9])
local guards = 9 + 10 * n_events + 2 * n_addresses
local is_guarded = ARGV[guards + 1] ~= nil
local guarded, expected, epoch, control, agent, token, owner = '', '', '', '', '', '', ''
local lane, head, outcome, delay_ms, lease_ms, delta_seq = '', '', '', '', '', ''
local held, queue -- the lane's record and queue
if is_guarded then
  guarded, expected, epoch, control, agent, token, owner, lane, head, outcome, delay_ms, lease_ms, delta_seq =
    unpack(ARGV, guards + 1, guards + 13)
  held, queue = prefix .. 'l:' .. lane .. ':m', prefix .. 'l:' .. lane .. ':q'
end
local unparks = outcome == 'redrive' or outcome == 'drop'

-- 1. The same input again gets the original answer, whatever has happened since.
local idempotency
if key ~= '' then
  idempotency = prefix .. 'idem:' .. key
  local seen = call('GET', idempotency)
  if seen then
    local original, positions, number, versions = string.match(seen, '^(%S+)|([^|]*)|([^|]*)|([^|]*)$')
    if original ~= fingerprint then return {'REUSED'} end
    -- WAIT is about what its own connection wrote. (Newer servers do not count reads: it would confirm at once.)
    call('PEXPIRE', idempotency, call('PTTL', idempotency))
    return {'DUPLICATE', positions, number, versions}
  end
end

-- 2. Fences: a writer that lost its lane, or whose conversation was taken over, must leave no trace.
local behind = 0
if token ~= '' then
  local record = call('HMGET', held, 't', 'o', 'ds')
  if record[1] ~= token or record[2] ~= owner then return {'FENCED', 'lane', record[2] or ''} end
  if head ~= '' then
    behind = call('LPOS', queue, head, 'MAXLEN', AHEAD)
    if not behind then return {'FENCED', 'head', head} end
  end
  if delta_seq ~= '' and behind == 0 and tonumber(delta_seq) <= tonumber(record[3] or '0') then
    return {'DUPLICATE', '', '', ''}
  end
end

if unparks then -- somebody decides about the item that was looked at, and about no later one
  local stopped = call('HGET', held, 's') == 'parked' and call('LINDEX', queue, 0) or ''
  if stopped ~= head then return {'FENCED', 'parked', stopped} end
end

local actual, holder, current_epoch = 0, '', '0'
if guarded ~= '' then
  local record = call('HMGET', prefix .. 'c:' .. guarded .. ':m', 'v', 'ch', 'ce')
  actual, holder, current_epoch = tonumber(record[1] or '0'), record[2] or '', record[3] or '0'
end
if epoch ~= '' and epoch ~= current_epoch then return {'FENCED', 'control', holder} end

-- 3. Control and expected version.
if control == 'take' and holder ~= '' then return {'HELD', holder, current_epoch} end
if (control == 'release' or control == 'holds') and holder ~= agent then return {'HELD', holder, current_epoch} end
if expected ~= '' then
  if (expected == 'exists' and actual == 0) or (expected == 'absent' and actual > 0)
    or (expected ~= 'exists' and expected ~= 'absent' and tonumber(expected) ~= actual) then
    return {'CONFLICT', format(INT, actual), call('LINDEX', prefix .. 'c:' .. guarded .. ':ix', -1) or ''}
  end
end

local clock = call('HMGET', meta, 'ms', 'sq', 'n', 'q')

-- 4. Back-pressure holds back inputs, never the results of work that was accepted.
if ARGV[5] ~= '0' and token == '' and not unparks and n_events > 0 then
  local length = call('XLEN', KEYS[1])
  if length >= tonumber(ARGV[5]) then return {'BACKLOG', format(INT, length)} end
end
if ARGV[6] ~= '0' and token == '' then
  local unfinished = tonumber(clock[4] or '0')
  for i = 1, unfinished >= tonumber(ARGV[6]) and n_events or 0 do
    if ARGV[9 + (i - 1) * 10 + 3] ~= '' then return {'BACKLOG', format(INT, unfinished)} end
  end
end

-- 5. Write. One clock for both streams; it never runs backwards, whatever the server's does.
local ms, sq, n = tonumber(clock[1] or '-1'), tonumber(clock[2] or '0'), tonumber(clock[3] or '0')
if not clock[1] and call('EXISTS', KEYS[1]) + call('EXISTS', prefix .. 'tok') > 0 then -- lost: it is read off the streams
  for stream = 1, 2 do
    local tail = call('XREVRANGE', stream == 1 and KEYS[1] or prefix .. 'tok', '+', '-', 'COUNT', 1)[1]
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
local stride = 1 -- by chance, where the clock stands behind: after an older copy is restored, no id names another event
if ARGV[1] == '' then
  local time = call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
  if now < ms then stride = time[2] + 1 end
else
  now = tonumber(ARGV[1])
end

local waiting = {} -- lanes that have work and nobody on them
local addresses = {}
for i = guards - 2 * n_addresses + 1, guards, 2 do addresses[ARGV[i]] = ARGV[i + 1] end

local positions, versions = {}, {}
local ms_text, sq_text, n_text, first_number -- as text: to make it costs more than to look it up in a hash
local queued = -behind
if behind > 0 then
  call('LTRIM', queue, behind, -1)
  call('HSET', held, 'ds', '0')
end
for i = 1, n_events do
  local at = 9 + (i - 1) * 10
  local kind, conversation, on_lane = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local run, cause = ARGV[at + 6], ARGV[at + 7]
  if now > ms then ms, sq = now, 0 else sq = sq + stride end
  ms_text, sq_text = format(INT, ms), format(INT, sq)
  local id = ms_text .. '-' .. sq_text
  positions[i] = id
  if string.byte(run) == AT then run = positions[tonumber(string.sub(run, 2))] end
  if string.byte(cause) == AT then cause = positions[tonumber(string.sub(cause, 2))] end
  if kind == 'd' then
    call('XADD', prefix .. 'tok', id, 't', ARGV[at + 4], 'c', conversation, 'r', run, 'k', cause, 'a', ARGV[at + 5],
      'd', ARGV[at + 8], 'p', ARGV[at + 9])
    -- A resume reads it here: to find one entry of a stream costs as much as to read fifty of a list. Where it comes
    -- from is mostly what the run's first one says, and left out.
    local index, packed = prefix .. 'run:' .. run .. ':d', id .. '\0' .. ARGV[at + 8] .. '\0' .. ARGV[at + 9]
    local source = '\0' .. ARGV[at + 4] .. '\0' .. conversation .. '\0' .. cause .. '\0' .. ARGV[at + 5]
    local first = call('LINDEX', index, 0)
    call('RPUSH', index, first and string.sub(first, -#source) == source and packed or packed .. source)
    if not first or ms - tonumber(string.match(first, '^%d+')) > EXPIRY_STEP_MS then
      call('PEXPIRE', index, format(INT, tonumber(ARGV[7]) + EXPIRY_STEP_MS))
    end
    if conversation ~= '' then -- whose deltas came last
      call('HSET', prefix .. 'c:' .. conversation .. ':m', 'dr', run)
    end
    versions[i] = ''
  else
    n = n + 1
    n_text = format(INT, n)
    first_number = first_number or n_text
    local v = ''
    if conversation ~= '' then
      v = format(INT, call('HINCRBY', prefix .. 'c:' .. conversation .. ':m', 'v', '1'))
      if v == '1' and addresses[conversation] then
        call('HSET', prefix .. 'alias', conversation, addresses[conversation])
      end
      call('RPUSH', prefix .. 'c:' .. conversation .. ':ix', id)
    end
    versions[i] = v
    call('XADD', KEYS[1], id, 't', ARGV[at + 4], 'c', conversation, 'n', n_text, 'v', v, 'r', run, 'k', cause,
      'a', ARGV[at + 5], 'd', ARGV[at + 8], 'p', ARGV[at + 9], 'h', ARGV[at + 10])
    if run ~= '' then call('RPUSH', prefix .. 'run:' .. run .. ':f', id) end
    if on_lane ~= '' then
      queued = queued + 1
      local name = prefix .. 'l:' .. on_lane
      if call('RPUSH', name .. ':q', id) == 1 and call('HGET', name .. ':m', 's') ~= 'parked' then
        waiting[#waiting + 1] = on_lane
      end
    end
  end
end
if n_events > 0 then
  call('HSET', meta, 'ms', ms_text, 'sq', sq_text, 'n', n_text or format(INT, n))
  if delta_seq ~= '' then call('HSET', held, 'ds', delta_seq) end
  call('XADD', shard .. 'bell', '*', 'o', org)
  if now % TRIM_EVERY_MS == 0 then -- not by the log's clock: that may stand
    call('XTRIM', shard .. 'bell', 'MAXLEN', '~', '4096')
    call('XTRIM', prefix .. 'tok', 'MINID', '~', format(INT, math.max(0, ms - tonumber(ARGV[7]))))
  end
end
if control == 'take' or control == 'release' then
  current_epoch = format(INT, tonumber(current_epoch) + 1)
  call('HSET', prefix .. 'c:' .. guarded .. ':m', 'ch', control == 'take' and agent or '', 'ce', current_epoch)
end

-- 6. The lane: next item, a retry later, parked, handed back, or set going again.
local next_position, next_fields, next_epoch, next_holder = '', '', '0', ''
if unparks then
  call('HSET', held, 's', '', 'a', '0')
  if outcome == 'drop' then call('HSET', held, 'd', head) end -- whoever takes it next gives this item up
  call('ZREM', prefix .. 'parked', lane)
  call('ZREM', shard .. 'parked', org .. '|' .. lane)
  waiting[#waiting + 1] = lane
elseif outcome ~= '' then
  if outcome == 'finish' and call('LPOP', queue) then queued = queued - 1 end
  local upcoming = call('LINDEX', queue, 0)
  if outcome == 'finish' and upcoming then
    call('HSET', held, 'a', '1', 'ds', '0', 'x', format(INT, now + tonumber(lease_ms)), 'xl', lease_ms)
    next_position = upcoming
    local entry = call('XRANGE', KEYS[1], upcoming, upcoming)[1]
    if entry then
      next_fields = table.concat(entry[2], '\0') -- as in lanes.lua
      for i = 1, #entry[2], 2 do
        if entry[2][i] == 'c' and entry[2][i + 1] ~= '' then
          local state = call('HMGET', prefix .. 'c:' .. entry[2][i + 1] .. ':m', 'ce', 'ch')
          next_epoch, next_holder = state[1] or '0', state[2] or ''
        end
      end
    end
  else
    local doorbell = call('HGET', held, 'w')
    if doorbell and doorbell ~= '' then
      call('XACK', shard .. 'work', 'workers', doorbell)
      call('XDEL', shard .. 'work', doorbell)
    end
    if not upcoming then
      call('DEL', held)
    elseif outcome == 'retry' then
      call('HSET', held, 'o', '', 'x', '0', 'w', '')
      call('ZADD', shard .. 'delay', format(INT, now + tonumber(delay_ms)), org .. '|' .. lane)
    elseif outcome == 'park' then
      call('HSET', held, 'o', '', 'x', '0', 'w', '', 's', 'parked', 'p', positions[n_events] or '')
      call('ZADD', prefix .. 'parked', format(INT, now), lane)
      call('ZADD', shard .. 'parked', format(INT, now), org .. '|' .. lane)
    else
      local attempts = tonumber(call('HGET', held, 'a') or '1')
      call('HSET', held, 'o', '', 'x', '0', 'a', format(INT, math.max(0, attempts - 1)))
      waiting[#waiting + 1] = lane
    end
  end
end

for _, name in ipairs(waiting) do
  call('HSET', prefix .. 'l:' .. name .. ':m', 'w', call('XADD', shard .. 'work', '*', 'o', org, 'l', name))
end

if queued ~= 0 and call('HINCRBY', meta, 'q', format(INT, queued)) < 0 then -- work that was accepted and is not finished
  call('HSET', meta, 'q', '0') -- the count was lost: too low until all is finished, never below what is there
end

local ids, numbers = table.concat(positions, ' '), first_number or format(INT, n + 1)
local seen_versions = table.concat(versions, ' ')
if key ~= '' then
  call('SET', idempotency, fingerprint .. '|' .. ids .. '|' .. numbers .. '|' .. seen_versions, 'PX', ARGV[4])
end
if not is_guarded then return {'OK', ids, numbers, seen_versions} end
return {'OK', ids, numbers, seen_versions, next_position, next_fields, next_epoch, next_holder, current_epoch}
