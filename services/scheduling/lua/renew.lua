-- Hold the lease for longer, when it still carries this holder and term.
-- KEYS: lease, members, seen. ARGV: holder, term, lease (ms), about.
-- Answers 1 (held) or 0 (lost), and Redis's time.

local time = redis.call('TIME')
local held = leads(KEYS[1], ARGV[1], ARGV[2]) and 1 or 0
if held == 1 then
    redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
be_seen(KEYS[2], KEYS[3], ARGV[1], ARGV[4], milliseconds(time), 4 * tonumber(ARGV[3]))
return {held, time[1], time[2]}
