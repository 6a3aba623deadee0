-- Ask for a run of a task out of turn, unless a request waits already. The leader carries it out: trigger.lua.
-- KEYS: task. ARGV: the request's id, who asks, the channel to wake the schedulers by.
-- Answers 1 (asked for) or 0 (one waits), Redis's time (ms), when the one that waits was made (ms), by whom, its id.

local now = milliseconds(redis.call('TIME'))
local waiting = redis.call('HMGET', KEYS[1], 'trigger_id', 'trigger_at', 'trigger_by')
if waiting[1] then
    return {0, now, waiting[2] or '', waiting[3] or '', waiting[1]}
end
redis.call('HSET', KEYS[1], 'trigger_id', ARGV[1], 'trigger_at', now, 'trigger_by', ARGV[2])
wake(ARGV[3], 'trigger')
return {1, now, now, ARGV[2], ARGV[1]}
