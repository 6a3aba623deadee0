-- Enqueue a tick: check the term, claim the slot and push the message, all or nothing.
-- KEYS: lease, task, then those of the push. ARGV: holder, term, slot (s), next slot (s), message id, outcome when
-- it is pushed, for how many seconds a mark may lie ahead, then those of the push.
-- Answers the outcome and when it came about (ms).

local now = milliseconds(redis.call('TIME'))
local slot = tonumber(ARGV[3])
local task = redis.call('HMGET', KEYS[2], 'slot', 'message_id', 'outcome', 'enqueued_at', 'paused_at')
-- The same call, whose reply was lost: answer as then, whoever leads by now.
if task[2] == ARGV[5] then
    return {task[3], tonumber(task[4])}
end
if not leads(KEYS[1], ARGV[1], ARGV[2]) then
    return {'not_leader', now}
end
-- Slots are claimed in their order, so one mark a task tells of all. A mark far ahead was set by a clock that has
-- been put back since; it does not stop the schedule.
local mark = tonumber(task[1])
if mark and mark >= slot and mark * 1000 <= now + tonumber(ARGV[7]) * 1000 then
    return {'duplicate', now}
end
-- By a second: nobody's idea of Redis's clock is exact.
if slot * 1000 > now + 1000 then
    return {'early', now}
end

local outcome = task[5] and 'paused' or ARGV[6]
if not task[5] then
    local arguments = {}
    for i = 8, #ARGV do
        arguments[i - 7] = ARGV[i]
    end
    push({KEYS[3]}, arguments)
    redis.call('HSETNX', KEYS[2], 'awaited_since', now)
end
redis.call('HSET', KEYS[2], 'slot', ARGV[3], 'next_slot', ARGV[4], 'message_id', ARGV[5], 'outcome', outcome,
    'enqueued_at', now, 'term', ARGV[2])
return {outcome, now}
