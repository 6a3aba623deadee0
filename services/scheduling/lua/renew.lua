-- Hold the lease for longer, when it still carries this holder and term.
-- KEYS: lease, members, seen. ARGV: holder, term, lease (ms), about.
-- Answers 1 (held) or 0 (lost), and Redis's time.

local time = redis.call('TIME')
be_seen(KEYS[2], KEYS[3], ARGV[1], ARGV[4], milliseconds(time), 4 * tonumber(ARGV[3]))
if not leads(KEYS[1], ARGV[1], ARGV[2]) then
    return {0, time[1], time[2]}
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {1, time[1], time[2]}
