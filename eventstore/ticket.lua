-- Opens a stream by its ticket: once within the time it has, and again only for a client that was there.
--
-- KEYS 1 the ticket: a JSON grant, gone when its time to be opened is over   2 how often it was opened
-- ARGV 1 binding   2 whether the client says where it was (1|0)   3 until when it lives once opened, epoch ms
--
-- Reply: how often it has been opened with this; 0: there is none, -1: it is for something else, -2: used before
if redis.call('GET', KEYS[1]) == false then return 0 end
if cjson.decode(redis.call('GET', KEYS[1]))['binding'] ~= ARGV[1] then return -1 end
if ARGV[2] == '0' and redis.call('EXISTS', KEYS[2]) == 1 then return -2 end
local opened = redis.call('INCR', KEYS[2])
redis.call('PEXPIREAT', KEYS[1], ARGV[3])
redis.call('PEXPIREAT', KEYS[2], ARGV[3])
return opened
