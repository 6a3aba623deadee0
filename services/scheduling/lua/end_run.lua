-- Count a run that has ended, and note how it ended when it is the last one that began.
-- KEYS: task. ARGV: message id, outcome, why it failed ('' when it did not).

local now = milliseconds(redis.call('TIME'))
redis.call('HINCRBY', KEYS[1], 'runs', 1)
if ARGV[2] == 'done' then
    redis.call('HSET', KEYS[1], 'last_success_at', now)
else
    redis.call('HINCRBY', KEYS[1], 'failures', 1)
end
if redis.call('HGET', KEYS[1], 'run_message_id') == ARGV[1] then
    redis.call('HSET', KEYS[1], 'run_ended_at', now, 'run_outcome', ARGV[2], 'run_error', ARGV[3])
end
