-- What the scripts share. Redis's clock is the one clock: TIME, in milliseconds where nothing else is said.

local function milliseconds(time)
    return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- Whether the lease is held by this holder under this term.
local function leads(lease, holder, term)
    local held = redis.call('HMGET', lease, 'holder', 'term')
    return held[1] == holder and held[2] == term
end

-- Note that a scheduler or a worker lives, and forget those not heard of for long.
local function be_seen(members, seen, holder, about, now, forget_after)
    -- First, because a Redis that is full allows this: then the rest of the script, too.
    redis.call('ZREM', seen, '')
    redis.call('HSET', members, holder, about)
    redis.call('ZADD', seen, now, holder)
    for _, gone in ipairs(redis.call('ZRANGEBYSCORE', seen, '-inf', now - forget_after)) do
        redis.call('HDEL', members, gone)
        redis.call('ZREM', seen, gone)
    end
end

-- Wake the schedulers. One who may not publish has still done the rest, and they look again at their next renewal.
local function wake(channel, why)
    redis.pcall('PUBLISH', channel, why)
end
