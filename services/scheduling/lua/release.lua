-- Leave: give the lease back, when this holder has it, and wake those who stand by. Whatever its term: a holder is one
-- process, which is at its end, and does not know its own term when the reply to its last try was lost.
-- KEYS: lease, members, seen. ARGV: holder, the channel to wake them by.
-- Answers 1 when it was held.

redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
if redis.call('HGET', KEYS[1], 'holder') ~= ARGV[1] then
    return 0
end
redis.call('DEL', KEYS[1])
wake(ARGV[2], 'released')
return 1
