-- Removes the facts before a position, and remembers the last one that went: a client that stood there missed nothing.
--
-- KEYS 1 log   2 meta
-- ARGV 1 the first position to keep
--
-- Reply: how many facts were removed
local last = redis.call('XREVRANGE', KEYS[1], '(' .. ARGV[1], '-', 'COUNT', 1)[1]
if not last then return 0 end
redis.call('HSET', KEYS[2], 'tp', last[1])
return redis.call('XTRIM', KEYS[1], 'MINID', '=', ARGV[1])
