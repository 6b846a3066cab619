-- Collects a page of what an index lists, in order and in one call; changes nothing.
--
-- KEYS 1 log; every other name is made from it as keys.py makes it: all share the log's hash tag
-- ARGV 1 c: a conversation | r: a run   2 which   3 with deltas (1|0)   4 most events   5 look-ahead
--      6 a: after a position | b: before it   7 ms   8 seq   9 after: bytes of fields with which a page is full
--
-- Reply: {where the page was cut ('' = it was not), entries}: a fact as XRANGE gives it; deltas of one run that follow one
-- another as {run, the run's first, deltas...}, as append.lua has packed them. To pass on what it found in a stream costs
-- a script as much as to find it.
local call = redis.call
local prefix = string.sub(KEYS[1], 1, -4)
local tok = prefix .. 'tok'
local kind, name, most, look_ahead = ARGV[1], ARGV[2], tonumber(ARGV[4]), tonumber(ARGV[5])
local edge = {tonumber(ARGV[7]), tonumber(ARGV[8])}

local function parts(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)')
  return tonumber(ms), tonumber(seq)
end
local function is_later(a, b) return a[1] > b[1] or (a[1] == b[1] and a[2] > b[2]) end

-- How many ids of an index lie below an edge; `including` counts one that lies on it.
local function below(index, edge, including)
  local low, high = 0, call('LLEN', index)
  while low < high do
    local middle = math.floor((low + high) / 2)
    local place = {parts(call('LINDEX', index, middle))}
    if is_later(edge, place) or (including and not is_later(place, edge)) then
      low = middle + 1
    else
      high = middle
    end
  end
  return low
end

local function fact_at(id) return call('XRANGE', KEYS[1], id, id)[1] end

local index = kind == 'c' and prefix .. 'c:' .. name .. ':ix' or prefix .. 'run:' .. name .. ':f'
if ARGV[6] == 'b' then
  local entries, upto = {}, below(index, edge, false)
  local from = math.max(0, upto - most)
  local ids = upto > 0 and call('LRANGE', index, from, upto - 1) or {}
  for _, id in ipairs(ids) do entries[#entries + 1] = fact_at(id) end
  return {from > 0 and ids[1] or '', entries}
end

local function found(ids) -- {ms, seq, id} of each
  local places = {}
  for i, id in ipairs(ids) do
    local ms, seq = parts(id)
    places[i] = {ms, seq, id}
  end
  return places
end

local at = below(index, edge, true)
local ids = call('LRANGE', index, at, at + most - 1)
if kind == 'r' then -- a run's index does not list its input
  local ms, seq = parts(name)
  if is_later({ms, seq}, edge) then table.insert(ids, 1, name) end
end
local facts = found(ids)

local runs = {} -- whose deltas are on the page
if ARGV[3] == '1' and kind == 'r' then
  runs[name] = true
elseif ARGV[3] == '1' then
  local latest = call('HGET', prefix .. 'c:' .. name .. ':m', 'dr')
  if latest then
    -- A delta belongs to a run with a later fact, or to the run that wrote last: a lane handles one run at a time, and
    -- a run's last event is a fact. That fact may lie behind the page.
    runs[latest] = true
    local function note(entry)
      for i = 1, entry and #entry[2] or 0, 2 do if entry[2][i] == 'r' then runs[entry[2][i + 1]] = true end end
    end
    for _, fact in ipairs(facts) do
      fact[4] = fact_at(fact[3])
      note(fact[4])
    end
    if #ids == most then
      for _, id in ipairs(call('LRANGE', index, at + most, at + most + look_ahead - 1)) do note(fact_at(id)) end
    end
  end
end

-- A delta is on the page as long as the token stream has it: that is trimmed from its beginning only.
local oldest = next(runs) and call('XRANGE', tok, '-', '+', 'COUNT', 1)[1]
oldest = oldest and {parts(oldest[1])}
local lists = {}
for run in pairs(oldest and runs or {}) do
  local list = prefix .. 'run:' .. run .. ':d'
  local head = call('LINDEX', list, 0)
  if head then
    local trimmed = is_later(oldest, edge)
    local from = below(list, trimmed and oldest or edge, not trimmed)
    local of_run = found(call('LRANGE', list, from, from + most - 1))
    for _, delta in ipairs(of_run) do delta[4], delta[5] = run, head end
    if #of_run > 0 then lists[#lists + 1] = of_run end
  end
end
table.sort(lists, function(a, b) return is_later(b[1], a[1]) end)
local deltas, in_order = {}, true
for _, list in ipairs(lists) do
  in_order = in_order and (#deltas == 0 or is_later(list[1], deltas[#deltas]))
  for _, delta in ipairs(list) do deltas[#deltas + 1] = delta end
end
if not in_order then table.sort(deltas, function(a, b) return is_later(b, a) end) end

local entries, reached, room, f, d, group = {}, '', tonumber(ARGV[9]), 1, 1, nil
for i = 1, #facts + #deltas do
  local fact, delta, entry = facts[f], deltas[d], nil
  local event = (delta == nil or (fact and is_later(delta, fact))) and fact or delta
  if event == fact then
    entry, f = fact[4] or fact_at(fact[3]), f + 1
  else
    d = d + 1
    if not string.find(delta[3], '\0', 1, true) then -- of a version that listed no more than the id
      entry = call('XRANGE', tok, delta[3], delta[3])[1]
    else
      if not group or group[1] ~= delta[4] then
        group = {delta[4], delta[5]}
        entries[#entries + 1] = group
      end
      group[#group + 1] = delta[3]
      room = room - #delta[3]
    end
  end
  if entry then
    entries[#entries + 1], group = entry, nil
    for field = 1, #entry[2] do room = room - #entry[2][field] end
  end
  if i == most or (room <= 0 and i < #facts + #deltas) then
    reached = string.match(event[3], '^[%d-]+')
    break
  end
end
return {reached, entries}
