-- Note how a run ended, when it is the last one that began.
-- KEYS: task. ARGV: message id, outcome.

if redis.call('HGET', KEYS[1], 'run_message_id') == ARGV[1] then
    redis.call('HSET', KEYS[1], 'run_ended_at', milliseconds(redis.call('TIME')), 'run_outcome', ARGV[2])
end
