-- Remove dead letters for good. A Redis that is full allows it.
-- KEYS: dead letters, their messages, then the note of each letter's failure. ARGV: their ids.
-- Answers for each 1 (done) or 0 (gone).

local answers = {}
for i, id in ipairs(ARGV) do
    local found = redis.call('ZREM', KEYS[1], id) + redis.call('HDEL', KEYS[2], id)
    redis.call('DEL', KEYS[2 + i])
    answers[i] = found > 0 and 1 or 0
end
return answers
