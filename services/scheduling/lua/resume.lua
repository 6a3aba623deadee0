-- End the pause of a task.
-- KEYS: task. ARGV: the channel to wake the schedulers by.
-- Answers 1 (it goes on) or 0 (it was not paused), Redis's time (ms), since when it was paused (ms) and by whom.

local now = milliseconds(redis.call('TIME'))
local paused = redis.call('HMGET', KEYS[1], 'paused_at', 'paused_by')
if not paused[1] then
    return {0, now, '', ''}
end
redis.call('HDEL', KEYS[1], 'paused_at', 'paused_by')
wake(ARGV[1], 'resumed')
return {1, now, paused[1], paused[2] or ''}
