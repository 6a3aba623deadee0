-- Begin a run of a task, unless it is for a tick that is of no more use: its next slot is due, and a run that began
-- since its own slot has seen all that it would see.
-- KEYS: task. ARGV: slot (s; '' when it is no tick), next slot (s; '' when the run is not to be dropped).
-- Answers 1 (go on) or 0 (drop it).

local now = milliseconds(redis.call('TIME'))
if ARGV[2] ~= '' and tonumber(ARGV[2]) * 1000 <= now then
    local began = tonumber(redis.call('HGET', KEYS[1], 'run_started_at'))
    if began and began >= tonumber(ARGV[1]) * 1000 and began <= now then
        redis.call('HINCRBY', KEYS[1], 'dropped', 1)
        return 0
    end
end
redis.call('HDEL', KEYS[1], 'run_ended_at', 'run_outcome')
redis.call('HSET', KEYS[1], 'run_slot', ARGV[1], 'run_started_at', now)
return 1
