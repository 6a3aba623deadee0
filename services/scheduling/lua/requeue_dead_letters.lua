-- Put dead letters back into their queue, each under a new id, as a broker gives one to whatever it enqueues: a letter
-- that has died again since is another one. So of two who ask at once, one does it.
-- KEYS: dead letters, their messages, queue, its messages, then the note of each letter's failure.
-- ARGV: of each letter its id, its new id, its message.
-- Answers for each 1 (done) or 0 (gone).

local answers = {}
for i = 1, #KEYS - 4 do
    local id, new_id, message = ARGV[3 * i - 2], ARGV[3 * i - 1], ARGV[3 * i]
    answers[i] = 0
    if redis.call('ZSCORE', KEYS[1], id) and redis.call('HEXISTS', KEYS[2], id) == 1 then
        -- First, because a Redis that is full allows this: then the rest of the script, too.
        redis.call('DEL', KEYS[4 + i])
        -- Should it end here, for whatever reason, the letter is still there.
        redis.call('HSET', KEYS[4], new_id, message)
        redis.call('RPUSH', KEYS[3], new_id)
        redis.call('ZREM', KEYS[1], id)
        redis.call('HDEL', KEYS[2], id)
        answers[i] = 1
    end
end
return answers
