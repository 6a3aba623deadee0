-- Note that a worker process lives, and forget those not heard of for long.
-- KEYS: members, seen. ARGV: the worker's id, about, after how long one is forgotten (ms).

be_seen(KEYS[1], KEYS[2], ARGV[1], ARGV[2], milliseconds(redis.call('TIME')), tonumber(ARGV[3]))
