-- Pause a task, unless it is paused already.
-- KEYS: task. ARGV: who asks, the channel to wake the schedulers by.
-- Answers 1 (paused now) or 0 (it was already), Redis's time (ms), since when (ms) and by whom.

local now = milliseconds(redis.call('TIME'))
local paused = redis.call('HMGET', KEYS[1], 'paused_at', 'paused_by')
if paused[1] then
    return {0, now, paused[1], paused[2] or ''}
end
redis.call('HSET', KEYS[1], 'paused_at', now, 'paused_by', ARGV[1])
wake(ARGV[2], 'paused')
return {1, now, now, ARGV[1]}
