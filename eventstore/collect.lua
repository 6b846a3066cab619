-- Collects a page of what an index lists, in order and in one call; changes nothing.
--
-- KEYS 1 log; every other name is made from it as keys.py makes it: all share the log's hash tag
-- ARGV 1 c: a conversation | r: a run   2 which   3 with deltas (1|0)   4 most events   5 look-ahead
--      6 a: after a position | b: before it   7 ms   8 seq   9 after: bytes of fields with which a page is full
--
-- Reply: {where the page was cut ('' = it was not), entries: a fact as XRANGE gives it, a delta as its id, names and
-- values joined by NUL, which none of them holds (a fact's digest may). To pass fifteen strings on costs as much as to
-- read them.
local call = redis.call
local prefix = string.sub(KEYS[1], 1, -4)
local tok = prefix .. 'tok'
local kind, name, most, look_ahead = ARGV[1], ARGV[2], tonumber(ARGV[4]), tonumber(ARGV[5])
local edge_ms, edge_seq = tonumber(ARGV[7]), tonumber(ARGV[8])

local function parts(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(seq)
end
local function is_later(a, b) return a[1] > b[1] or (a[1] == b[1] and a[2] > b[2]) end

-- How many ids of an index lie below the edge; `including` counts one that lies on it.
local function below(index, including)
  local low, high = 0, call('LLEN', index)
  while low < high do
    local middle = math.floor((low + high) / 2)
    local ms, seq = parts(call('LINDEX', index, middle))
    if ms < edge_ms or (ms == edge_ms and (seq < edge_seq or (including and seq == edge_seq))) then
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
  local entries, upto = {}, below(index, false)
  local from = math.max(0, upto - most)
  local ids = upto > 0 and call('LRANGE', index, from, upto - 1) or {}
  for _, id in ipairs(ids) do entries[#entries + 1] = fact_at(id) end
  return {from > 0 and ids[1] or '', entries}
end

local cut -- where the page ends too early
local function found(ids, limit) -- {ms, seq, id} of each
  local places = {}
  for i, id in ipairs(ids) do
    local ms, seq = parts(id)
    places[i] = {ms, seq, id}
    if i == limit and (not cut or is_later(cut, places[i])) then cut = places[i] end
  end
  return places
end

local at = below(index, true)
local ids = call('LRANGE', index, at, at + most - 1)
if kind == 'r' then -- a run's index does not list its input
  local ms, seq = parts(name)
  if is_later({ms, seq}, {edge_ms, edge_seq}) then table.insert(ids, 1, name) end
end
local facts = found(ids, most)

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

local lists = {}
for run in pairs(runs) do
  local list = prefix .. 'run:' .. run .. ':d'
  local first = below(list, true)
  local of_run = found(call('LRANGE', list, first, first + most - 1), most)
  if #of_run > 0 then lists[#lists + 1] = of_run end
end
table.sort(lists, function(a, b) return is_later(b[1], a[1]) end)
local deltas, in_order = {}, true
for _, list in ipairs(lists) do
  in_order = in_order and (#deltas == 0 or is_later(list[1], deltas[#deltas]))
  for _, delta in ipairs(list) do deltas[#deltas + 1] = delta end
end
if not in_order then table.sort(deltas, function(a, b) return is_later(b, a) end) end

-- To look for one place costs as much as to read a few entries: neighbours are read together, more and more of them
-- until something of another conversation lies between. Then they are read one by one for a while.
local width, known, singly = 1, 0, 0
local function delta_at(i)
  if i > known then
    local last = math.min(i + width - 1, #deltas)
    local read, entries = call('XRANGE', tok, deltas[i][3], deltas[last][3], 'COUNT', last - i + 1), {}
    for _, entry in ipairs(read) do entries[entry[1]] = entry end
    for j = i, last do
      deltas[j][4] = entries[deltas[j][3]]
      if deltas[j][4] or j == i or #read <= last - i then known = j end
    end
    singly = known < last and 8 or math.max(0, singly - 1)
    width = singly > 0 and 1 or math.min(width * 2, 64)
  end
  return deltas[i][4]
end

local entries, reached, room, f, d = {}, '', tonumber(ARGV[9]), 1, 1
for i = 1, #facts + #deltas do
  local fact, delta, entry = facts[f], deltas[d], nil
  local event = (delta == nil or (fact and is_later(delta, fact))) and fact or delta
  if event == fact then
    entry, f = fact[4] or fact_at(fact[3]), f + 1
    entries[#entries + 1] = entry
    for field = 1, entry and #entry[2] or 0 do room = room - #entry[2][field] end
  else
    entry, d = delta_at(d), d + 1
    if entry then
      local packed = entry[1] .. '\0' .. table.concat(entry[2], '\0')
      entries[#entries + 1] = packed
      room = room - #packed
    end
  end
  if i == most or event == cut or (room <= 0 and i < #facts + #deltas) then
    reached = event[3]
    break
  end
end
return {reached, entries}
