-- Forgets members of the workers' group that have been silent for long and have nothing to acknowledge. One step, because
-- what a member gets in between would be forgotten with it. One that wakes up after all joins again by reading.
--
-- KEYS 1 work   ARGV 1 silent_ms   Reply: how many
local forgotten = 0
for _, member in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], 'workers')) do
  local about = {}
  for i = 1, #member, 2 do about[member[i]] = member[i + 1] end
  if about['pending'] == 0 and about['idle'] >= tonumber(ARGV[1]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], 'workers', about['name'])
    forgotten = forgotten + 1
  end
end
return forgotten
