-- Begin a run of a task, unless it is for a tick that is of no more use: its next slot is due, and a run that began
-- since its own slot saw all that it would see. A run of the same message does not count: its worker died.
-- KEYS: task. ARGV: message id, slot (s; '' when it is no tick), next slot (s; '' when the run is not to be dropped),
-- for how long it may run (ms).
-- Answers 1 (go on) or 0 (drop it).

local now = milliseconds(redis.call('TIME'))
if ARGV[3] ~= '' and tonumber(ARGV[3]) * 1000 <= now then
    local last = redis.call('HMGET', KEYS[1], 'run_started_at', 'run_message_id')
    local began = tonumber(last[1])
    if began and began >= tonumber(ARGV[2]) * 1000 and began <= now and last[2] ~= ARGV[1] then
        redis.call('HINCRBY', KEYS[1], 'dropped', 1)
        return 0
    end
end
redis.call('HDEL', KEYS[1], 'run_ended_at', 'run_outcome', 'run_error', 'awaited_since')
redis.call('HSET', KEYS[1], 'run_slot', ARGV[2], 'run_message_id', ARGV[1], 'run_started_at', now,
    'run_limit', ARGV[4])
return 1
