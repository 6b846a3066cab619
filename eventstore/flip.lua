-- Makes the generation that was built beside the live one the live one; the old one lingers for queries under way.
--
-- KEYS 1 pointers  2 old head  3 old documents  4 old terms
-- ARGV 1 projection version  2 the generation that was built  3 the live generation ('' = none)  4 grace_ms
--
-- Replies: {OK} {MOVED} (another process flipped it already)
local call = redis.call
local live, building = 'live:' .. ARGV[1], 'building:' .. ARGV[1]

if call('HGET', KEYS[1], building) ~= ARGV[2] or (call('HGET', KEYS[1], live) or '') ~= ARGV[3] then
  return {'MOVED'}
end
call('HSET', KEYS[1], live, ARGV[2])
call('HDEL', KEYS[1], building)
if ARGV[3] ~= '' then
  for i = 2, 4 do call('PEXPIRE', KEYS[i], ARGV[4]) end
end
return {'OK'}
