-- Collects a page of what an index lists, in order and in one call; changes nothing.
--
-- KEYS 1 log; every other name is made from it as keys.py makes it: all share the log's hash tag
-- ARGV 1 c: a conversation | r: a run   2 which   3 with deltas (1|0)   4 most events   5 look-ahead
--      6 a: after a position | b: before it   7 ms   8 seq   9 after: bytes of fields with which a page is full
--
-- Reply: {where the page was cut ('' = it was not), entries as XRANGE gives them}
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

local function entry_at(stream, id) return call('XRANGE', stream, id, id)[1] end

local index = kind == 'c' and prefix .. 'c:' .. name .. ':ix' or prefix .. 'run:' .. name .. ':f'
if ARGV[6] == 'b' then
  local entries, upto = {}, below(index, false)
  local from = math.max(0, upto - most)
  local ids = upto > 0 and call('LRANGE', index, from, upto - 1) or {}
  for _, id in ipairs(ids) do entries[#entries + 1] = entry_at(KEYS[1], id) end
  return {from > 0 and ids[1] or '', entries}
end

local found, cut = {}, nil -- what is on the page, as {ms, seq, id, stream, entry}; the place where it ends too early
local function find(stream, ids)
  for i, id in ipairs(ids) do
    local ms, seq = parts(id)
    found[#found + 1] = {ms, seq, id, stream}
    if i == most and (not cut or is_later(cut, found[#found])) then cut = found[#found] end
  end
end

local at = below(index, true)
local facts = call('LRANGE', index, at, at + most - 1)
if kind == 'r' then -- a run's index does not list its input
  local ms, seq = parts(name)
  if is_later({ms, seq}, {edge_ms, edge_seq}) then table.insert(facts, 1, name) end
end
find(KEYS[1], facts)

if ARGV[3] == '1' and kind == 'r' then
  local deltas = prefix .. 'run:' .. name .. ':d'
  local first = below(deltas, true)
  find(tok, call('LRANGE', deltas, first, first + most - 1))
elseif ARGV[3] == '1' then
  local latest = call('HGET', prefix .. 'c:' .. name .. ':m', 'dr')
  if latest then
    -- A delta belongs to a run with a later fact, or to the run that wrote last: a lane handles one run at a time, and
    -- a run's last event is a fact. That fact may lie behind the page.
    local runs = {[latest] = true}
    local function note(entry)
      for i = 1, entry and #entry[2] or 0, 2 do if entry[2][i] == 'r' then runs[entry[2][i + 1]] = true end end
    end
    for i = 1, #facts do
      found[i][5] = entry_at(KEYS[1], facts[i])
      note(found[i][5])
    end
    if #facts == most then
      for _, id in ipairs(call('LRANGE', index, at + most, at + most + look_ahead - 1)) do note(entry_at(KEYS[1], id)) end
    end
    for run in pairs(runs) do
      local deltas = prefix .. 'run:' .. run .. ':d'
      local first = below(deltas, true)
      find(tok, call('LRANGE', deltas, first, first + most - 1))
    end
  end
end

table.sort(found, function(a, b)
  if a[1] ~= b[1] then return a[1] < b[1] end
  return a[2] < b[2]
end)
local entries, reached, room = {}, '', tonumber(ARGV[9])
for i, event in ipairs(found) do
  local entry = event[5] or entry_at(event[4], event[3])
  entries[#entries + 1] = entry
  for field = 1, entry and #entry[2] or 0 do room = room - #entry[2][field] end
  if i == most or event == cut or (room <= 0 and i < #found) then
    reached = event[3]
    break
  end
end
return {reached, entries}
