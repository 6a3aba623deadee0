-- Join the runs that drain the backlog of a task, or stay among them, if there is room; and note whom to call in.
-- KEYS: crew, calls. ARGV: member, how many may be in, after how long a silent member is out (ms), after how long a
-- call is forgotten (ms), then those that may be called in.
-- Answers 1 (in) or 0 (no room), how many are in, how many to call in: the first ones.

local now = milliseconds(redis.call('TIME'))
local limit = tonumber(ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - tonumber(ARGV[3]))
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - tonumber(ARGV[4]))
redis.call('ZREM', KEYS[2], ARGV[1])
local size = redis.call('ZCARD', KEYS[1])
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then
    if size >= limit then
        return {0, size, 0}
    end
    size = size + 1
end
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
-- Who was called and has not come yet counts: what waits for a free worker does not come sooner when it is more.
local called = math.max(math.min(limit - size - redis.call('ZCARD', KEYS[2]), #ARGV - 4), 0)
for i = 5, 4 + called do
    redis.call('ZADD', KEYS[2], now, ARGV[i])
end
if called > 0 then
    redis.call('PEXPIRE', KEYS[2], ARGV[4])
end
return {1, size, called}
