-- Moves one read model forward: documents, index and checkpoint together, or nothing if it is not where the caller
-- read it. The checkpoint is never created here, so a generation that was dropped meanwhile stays dropped.
--
-- KEYS 1 head (p position, n number of the last folded fact)  2 documents  3 terms
-- ARGV 1 expected position  2 new position  3 new number
--      4 documents written  5 documents removed  6 terms added  7 terms removed;
--      then (key, document) per written document, then the other three lists
--
-- Replies: {OK} {MOVED, actual position or ''}
local call = redis.call

local actual = call('HGET', KEYS[1], 'p') or ''
if actual ~= ARGV[1] then return {'MOVED', actual} end

local at = 8
for _ = 1, tonumber(ARGV[4]) do
  call('HSET', KEYS[2], ARGV[at], ARGV[at + 1])
  at = at + 2
end
for _ = 1, tonumber(ARGV[5]) do
  call('HDEL', KEYS[2], ARGV[at])
  at = at + 1
end
for _ = 1, tonumber(ARGV[6]) do
  call('ZADD', KEYS[3], 0, ARGV[at])
  at = at + 1
end
for _ = 1, tonumber(ARGV[7]) do
  call('ZREM', KEYS[3], ARGV[at])
  at = at + 1
end
call('HSET', KEYS[1], 'p', ARGV[2], 'n', ARGV[3])
return {'OK'}
