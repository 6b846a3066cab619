-- Collects a page of what an index lists, in order and in one call; changes nothing.
--
-- KEYS 1 log; every other name is made from it as keys.py makes it: all share the log's hash tag
-- ARGV 1 c: a conversation | r: a run   2 which   3 with deltas (1|0)   4 most events   5 look-ahead
--      6 a: after a position | b: before it   7 ms   8 seq   9 after: bytes of fields with which a page is full
--      10 after: with a look at the log as of now (1|0)
--
-- Reply: {where the page was cut ('' = it was not), entries, look}: a fact as {id, names and values joined by NUL}, which
-- only the last may hold; deltas of one run that follow one another as {run, the run's first, deltas}, as append.lua
-- has packed them. To pass on twenty strings costs a script as much as to find them.
local call = redis.call
local prefix = string.sub(KEYS[1], 1, -4)
local tok = prefix .. 'tok'
local kind, name, most, look_ahead = ARGV[1], ARGV[2], tonumber(ARGV[4]), tonumber(ARGV[5])
local edge = {tonumber(ARGV[7]), tonumber(ARGV[8])}

local function place(id) -- of an id, or of a packed delta, which begins with its own
  local ms, seq = string.match(id, '^(%d+)-(%d+)')
  return {tonumber(ms), tonumber(seq), id}
end
local function is_later(a, b) return a[1] > b[1] or (a[1] == b[1] and a[2] > b[2]) end

-- How many ids of an index lie below an edge; `including` counts one that lies on it.
local function below(index, edge, including)
  local low, high = 0, call('LLEN', index)
  local function is_below(i)
    local at = place(call('LINDEX', index, i))
    return is_later(edge, at) or (including and not is_later(at, edge))
  end
  if high > 0 and is_below(high - 1) then return high end -- who comes back has mostly seen all
  while low < high do
    local middle = math.floor((low + high) / 2)
    if is_below(middle) then low = middle + 1 else high = middle end
  end
  return low
end

local function entry_at(stream, id) -- as it is passed on, and its run
  local found = call('XRANGE', stream, id, id)[1]
  if not found then return nil end
  local fields, run = found[2], nil
  for i = 1, #fields, 2 do if fields[i] == 'r' then run = fields[i + 1] break end end
  return {id, table.concat(fields, '\0')}, run
end
local function fact_at(id) return entry_at(KEYS[1], id) end

local index = kind == 'c' and prefix .. 'c:' .. name .. ':ix' or prefix .. 'run:' .. name .. ':f'
if ARGV[6] == 'b' then
  local entries, upto = {}, below(index, edge, false)
  local from = math.max(0, upto - most)
  local ids = upto > 0 and call('LRANGE', index, from, upto - 1) or {}
  for _, id in ipairs(ids) do entries[#entries + 1] = (fact_at(id)) end
  return {from > 0 and ids[1] or '', entries}
end

local at = below(index, edge, true)
local ids = call('LRANGE', index, at, at + most - 1)
if kind == 'r' and is_later(place(name), edge) then table.insert(ids, 1, name) end -- a run's index does not list its input
local facts = {}
for i, id in ipairs(ids) do facts[i] = place(id) end

local runs = {} -- whose deltas are on the page
if ARGV[3] == '1' and kind == 'r' then
  runs[name] = true
elseif ARGV[3] == '1' then
  local latest = call('HGET', prefix .. 'c:' .. name .. ':m', 'dr')
  if latest then
    -- A delta belongs to a run with a later fact, or to the run that wrote last: a lane handles one run at a time, and
    -- a run's last event is a fact. That fact may lie behind the page.
    runs[latest] = true
    local function run_of(id)
      local entry, run = fact_at(id)
      if run then runs[run] = true end
      return entry
    end
    for _, fact in ipairs(facts) do fact[4] = run_of(fact[3]) end
    if #ids == most then
      for _, id in ipairs(call('LRANGE', index, at + most, at + most + look_ahead - 1)) do run_of(id) end
    end
  end
end

-- A delta is on the page as long as the token stream has it: that is trimmed from its beginning only.
local oldest = next(runs) and call('XRANGE', tok, '-', '+', 'COUNT', 1)[1]
local trimmed = oldest and is_later(place(oldest[1]), edge)
local low = trimmed and place(oldest[1]) or edge
local lists = {}
for run in pairs(oldest and runs or {}) do
  local list = prefix .. 'run:' .. run .. ':d'
  local head = call('LINDEX', list, 0)
  if head then
    local from = is_later(place(head), low) and 0 or below(list, low, not trimmed)
    local items = call('LRANGE', list, from, from + most - 1)
    if #items > 0 then
      lists[#lists + 1] = {run = run, head = head, items = items, first = place(items[1]), last = place(items[#items])}
    end
  end
end
local function begins_before(a, b) return is_later(b.first, a.first) end
table.sort(lists, begins_before)
for i = 2, #lists do
  if not is_later(lists[i].first, lists[i - 1].last) then -- seldom: then each delta is a list of its own
    local singly = {}
    for _, list in ipairs(lists) do
      for _, item in ipairs(list.items) do
        local it = place(item)
        singly[#singly + 1] = {run = list.run, head = list.head, items = {item}, first = it, last = it}
      end
    end
    table.sort(singly, begins_before)
    lists = singly
    break
  end
end

-- How large a run's deltas are where they can be passed on as they are, which is mostly so: no fact lies between them,
-- and none is of a version that listed no more than the id.
local function size_in_one(list, fact)
  local size = (not fact or is_later(fact, list.last)) and 0
  for i = 1, size and #list.items or 0 do
    local item = list.items[i]
    size = size and string.find(item, '\0', 1, true) and size + #item
  end
  return size
end

local entries, reached, room, count, f, l, d, group = {}, '', tonumber(ARGV[9]), 0, 1, 1, 1, nil
while reached == '' and (facts[f] or lists[l]) do
  local fact, list, entry, last = facts[f], lists[l], nil, nil
  local size = list and d == 1 and #list.items > 1 and count + #list.items <= most and size_in_one(list, fact)
  if size and size <= room then
    entries[#entries + 1], group = {list.run, list.head, list.items}, nil
    last, l = list.items[#list.items], l + 1
    count, room = count + #list.items - 1, room - size
  elseif list and (not fact or is_later(fact, list.last) or is_later(fact, place(list.items[d]))) then
    last = list.items[d]
    if not string.find(last, '\0', 1, true) then -- of a version that listed no more than the id
      entry = entry_at(tok, last)
    else
      if not group or group[1] ~= list.run then
        group = {list.run, list.head, {}}
        entries[#entries + 1] = group
      end
      table.insert(group[3], last)
      room = room - #last
    end
    d = d + 1
    if d > #list.items then l, d = l + 1, 1 end
  else
    entry, last, f = fact[4] or fact_at(fact[3]), fact[3], f + 1
  end
  if entry then
    entries[#entries + 1], group, room = entry, nil, room - #entry[2]
  end
  count = count + 1
  if count == most or (room <= 0 and (facts[f] or lists[l])) then reached = string.match(last, '^[%d-]+') end
end

local look, at = {}, ARGV[7] .. '-' .. ARGV[8]
if ARGV[10] == '1' then -- what log.py asks in as many commands where it wants no page; of a log with a clock, for a fact only that
  local clock, fact = call('HMGET', prefix .. 'meta', 'ms', 'sq'), call('XRANGE', KEYS[1], at, at)
  look = clock[1] and fact[1] and {clock} or {
    clock, call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1), call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1), fact,
    call('XRANGE', tok, at, at), call('HGET', prefix .. 'meta', 'tp'),
  }
end
return {reached, entries, look}
