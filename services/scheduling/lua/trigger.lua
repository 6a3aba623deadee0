-- Carry out what a person asked for: push a message out of turn, and strike the request, all or nothing.
-- KEYS: lease, task, then those of the push. ARGV: holder, term, the request's id, message id, then those of the push.
-- Answers 'triggered', 'gone' (carried out or taken back before) or 'not_leader'.

local task = redis.call('HMGET', KEYS[2], 'trigger_id', 'trigger_by', 'triggered_id')
-- The same call, whose reply was lost: answer as then, whoever leads by now.
if task[3] == ARGV[3] then
    return 'triggered'
end
if not leads(KEYS[1], ARGV[1], ARGV[2]) then
    return 'not_leader'
end
if task[1] ~= ARGV[3] then
    return 'gone'
end
local arguments = {}
for i = 5, #ARGV do
    arguments[i - 4] = ARGV[i]
end
push({KEYS[3]}, arguments)
local now = milliseconds(redis.call('TIME'))
redis.call('HSETNX', KEYS[2], 'awaited_since', now)
redis.call('HDEL', KEYS[2], 'trigger_id', 'trigger_at', 'trigger_by')
redis.call('HSET', KEYS[2], 'triggered_id', ARGV[3], 'triggered_by', task[2] or '',
    'triggered_at', now, 'triggered_message_id', ARGV[4])
return 'triggered'
