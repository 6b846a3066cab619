-- Moves one read model forward: documents, index and checkpoint together, or nothing if it is not where the caller
-- read it. The checkpoint is never created here, so a generation that was dropped meanwhile stays dropped.
--
-- KEYS 1 head (p position, n number of the last folded fact)  2 documents  3 terms
-- ARGV 1 expected position  2 new position  3 new number
--      4 documents written  5 documents removed  6 terms added  7 terms removed;
--      then (key, document) per written document, keys removed, (0, term) per term added, terms removed
--
-- Replies: {OK} {MOVED, actual position or ''}
local call = redis.call

local actual = call('HGET', KEYS[1], 'p') or ''
if actual ~= ARGV[1] then return {'MOVED', actual} end

local at = 8
local function chunks(width, arguments, command, key) -- few calls: each costs more than what it writes
  local last = at + width * arguments - 1
  while at <= last do
    local stop = math.min(last, at + 999)
    call(command, key, unpack(ARGV, at, stop))
    at = stop + 1
  end
end

chunks(2, tonumber(ARGV[4]), 'HSET', KEYS[2])
chunks(1, tonumber(ARGV[5]), 'HDEL', KEYS[2])
chunks(2, tonumber(ARGV[6]), 'ZADD', KEYS[3])
chunks(1, tonumber(ARGV[7]), 'ZREM', KEYS[3])
call('HSET', KEYS[1], 'p', ARGV[2], 'n', ARGV[3])
return {'OK'}
