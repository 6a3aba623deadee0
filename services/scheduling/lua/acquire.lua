-- Take the lease when nobody holds it. Its own holder gets it anew: the reply to an earlier try may have been lost.
-- KEYS: lease, term, members, seen. ARGV: holder, lease (ms), the highest term that the holder has seen, about.
-- Answers 1 (won) or 0 (somebody else holds it), Redis's time, and of the lease: holder, term, what is left of it (ms).

local time = redis.call('TIME')
local now = milliseconds(time)
local duration = tonumber(ARGV[2])
be_seen(KEYS[3], KEYS[4], ARGV[1], ARGV[4], now, 4 * duration)

local held = redis.call('HMGET', KEYS[1], 'holder', 'term', 'timeout')
if held[1] and held[1] ~= ARGV[1] then
    local left, most = redis.call('PTTL', KEYS[1]), tonumber(held[3]) or duration
    -- More than a lease, or for ever: Redis's clock was put back, or somebody's hand was in it.
    if left < 0 or left > most then
        left = most
        redis.call('PEXPIRE', KEYS[1], left)
    end
    return {0, time[1], time[2], held[1], tonumber(held[2]) or 0, left}
end

-- Terms go on even when Redis lost its data, as far as this scheduler can tell.
local term = math.max(tonumber(redis.call('GET', KEYS[2])) or 0, tonumber(ARGV[3])) + 1
redis.call('SET', KEYS[2], term)
redis.call('HSET', KEYS[1], 'holder', ARGV[1], 'term', term, 'since', now, 'timeout', duration)
redis.call('PEXPIRE', KEYS[1], duration)
return {1, time[1], time[2], ARGV[1], term, duration}
