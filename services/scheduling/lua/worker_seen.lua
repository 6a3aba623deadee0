-- Note that a worker process lives, and which queues it knows; forget those not heard of for long.
-- KEYS: members, seen, queues. ARGV: the worker's id, about, after how long one is forgotten (ms), then the queues.

be_seen(KEYS[1], KEYS[2], ARGV[1], ARGV[2], milliseconds(redis.call('TIME')), tonumber(ARGV[3]))
for i = 4, #ARGV do
    redis.call('SADD', KEYS[3], ARGV[i])
end
