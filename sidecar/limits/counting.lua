-- Counts requests where several hosts do: each in all of its budgets, or in none.
--
-- KEYS      the budgets of all checks, one after the other
-- ARGV[1]   the moment in Unix seconds, for tests to move; empty: the server's own clock; `~` and
--           seconds: that clock, with so many added to it
-- ARGV[2]   the algorithm
-- ARGV[3..] the checks: `<BBd`, whether to give back, how many budgets, the cost; then of each
--           budget `<dddd`, its requests, its window (seconds), and, of one that nothing is known
--           of, how long ago (seconds) how many were counted; to give back, the mark, and nothing
-- Returns   the moment (`<d`), and of each check whether it passes (`<B`) and, of one that was to
--           be counted, for each budget the mark (`<d`) and the state as it is now
--
-- The algorithms are those of windows.py, sliding.py and bucket.py, where they are explained.

local AHEAD, NEARLY, NOISE = 1, 1e-6, 1e-9
local FINENESS, PARTS = 1024, 16384
local UPRIGHT, MOST = 4294967295, 4294967294
local AT_ONCE, AT_THE_END = 0, 65535
local WHOLE = 9007199254740992 -- beyond it, not every whole number is one
local LONGEST_MS = 1e13

local meters = {}

meters['fixed-window'] = {
  most = {WHOLE, WHOLE}, -- opened at, count
  begin = function(at, count) return {at, count} end,
  look = function(s, now, requests, window)
    if window - math.max(0, now - s[1]) > 0 and s[2] > 0 and s[1] < now + AHEAD then
      return requests - s[2]
    end
    s[1], s[2] = now, 0
    return requests
  end,
  take = function(s, now, window, cost)
    s[2] = s[2] + cost
    return s[1]
  end,
  give_back = function(s, window, mark, cost)
    if s[1] == mark then s[2] = math.max(0, s[2] - cost) end
  end,
}

meters['token-bucket'] = {
  most = {WHOLE, WHOLE}, -- at, missing
  begin = function(at, count) return {at, count} end,
  look = function(s, now, requests, window)
    local missing = math.min(s[2], requests)
    if missing > 0 and s[1] < now + AHEAD then
      missing = math.max(0, missing - math.max(0, now - s[1]) * requests / window)
    else
      missing = 0
    end
    s[1], s[2] = now, missing
    return math.floor(requests - missing + NEARLY)
  end,
  take = function(s, now, window, cost)
    s[2] = s[2] + cost
    return now
  end,
  give_back = function(s, window, mark, cost) s[2] = math.max(0, s[2] - cost) end,
}

local function rise_of(line, count)
  if line == 0 then return AT_THE_END end
  if line == UPRIGHT or count <= 1 then return AT_ONCE end
  return math.min(AT_THE_END, math.ceil((count - 1) * FINENESS * PARTS / line))
end

local function roll(s, now, window)
  local since = (now - s[1]) / window
  if s[2] > 0 and since >= 1 and since < 2 then
    s[4], s[5], s[6] = s[2], math.floor((since - 1) * PARTS), rise_of(s[3], s[2])
  elseif s[2] == 0 and since >= 0 and since < 1 then
    s[5] = math.min(PARTS, s[5] + math.floor(since * PARTS))
  else
    s[4], s[5], s[6] = 0, 0, AT_ONCE
  end
  s[1], s[2], s[3] = now, 0, UPRIGHT
end

local function back(s, share)
  if share >= 1 or s[6] == AT_ONCE then return s[4] end
  if s[6] == AT_THE_END then return 0 end
  return math.min(s[4], 1 + math.floor((s[4] - 1) * share * PARTS / s[6] + NEARLY))
end

meters['sliding-window'] = {
  -- opened at, count, line; before, gap, rise
  most = {WHOLE, MOST, UPRIGHT, MOST, PARTS, AT_THE_END},
  begin = function(at, count) return {at, math.min(MOST, count), UPRIGHT, 0, 0, AT_ONCE} end,
  look = function(s, now, requests, window)
    local since = now - s[1]
    if not (-AHEAD < since and since < window) or s[2] == 0 then roll(s, now, window) end
    local share = math.max(0, now - s[1]) / window
    return requests - s[2] - (s[4] - back(s, share + s[5] / PARTS))
  end,
  take = function(s, now, window, cost)
    local share = (now - s[1]) / window
    if share > 0 then
      local steepest = s[2] / share * FINENESS * (1 + NOISE)
      if steepest < s[3] then s[3] = math.min(MOST, math.floor(steepest)) end
    end
    s[2] = math.min(MOST, s[2] + cost)
    return now
  end,
  give_back = function(s, window, mark, cost)
    local share = (mark - s[1]) / window
    if share >= 0 then
      s[2] = math.max(0, s[2] - cost)
      if s[3] ~= UPRIGHT then
        local lower = share > 0 and cost / share * FINENESS or math.huge
        s[3] = math.floor(math.max(0, s[3] - lower))
      end
    elseif share >= -2 then
      s[4] = math.max(0, s[4] - cost)
      if s[6] ~= AT_ONCE then s[6] = AT_THE_END end
    end
  end,
}

local meter = meters[ARGV[2]]
local fields = #meter.most
local STATE = '<' .. string.rep('d', fields)

-- What is known of each budget: nothing (false), or its state.
local states, changed = {}, {}

local function copy_of(key)
  local s = states[key]
  if s == nil then
    local raw = redis.pcall('GET', key)
    s = type(raw) == 'string' and #raw == 8 * fields and {struct.unpack(STATE, raw)}
    for field = 1, s and fields or 0 do
      -- Nobody else writes here; but what cannot be is not believed, a number that is none neither.
      s = s and s[field] >= 0 and s[field] <= meter.most[field] and s
    end
    states[key] = s
  end
  return s and {unpack(s, 1, fields)}
end

local function keep(key, s, window)
  states[key] = s
  changed[key] = math.max(window, changed[key] or 0)
end

local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) + tonumber(time[2]) / 1000000 + (tonumber(string.sub(ARGV[1], 2)) or 0)
end

local next_key = 1
local replies = {struct.pack('<d', now)}

for index = 3, #ARGV do
  local check = ARGV[index]
  local gives_back, count, cost, at = struct.unpack('<BBd', check)
  local passes, looked = 1, {}
  for number = 1, count do
    local key = KEYS[next_key]
    local requests, window, first, second
    requests, window, first, second, at = struct.unpack('<dddd', check, at)
    local s = copy_of(key)
    if gives_back == 0 then
      s = s or meter.begin(math.max(0, now - first), second)
      if meter.look(s, now, requests, window) < cost then passes = 0 end
      looked[number] = {key, s, window}
    elseif s then
      meter.look(s, now, requests, window)
      meter.give_back(s, window, first, cost)
      keep(key, s, window)
    end
    next_key = next_key + 1
  end
  local reply = {struct.pack('<B', passes)}
  for _, each in ipairs(looked) do
    local key, s, window = each[1], each[2], each[3]
    local mark = 0
    if passes == 1 then
      mark = meter.take(s, now, window, cost)
      keep(key, s, window)
    end
    reply[#reply + 1] = struct.pack('<d' .. string.rep('d', fields), mark, unpack(s, 1, fields))
  end
  replies[#replies + 1] = table.concat(reply)
end

for key, window in pairs(changed) do
  -- Whole again after two windows at most; the row of a key may tell of the last request for one
  -- more.
  local kept_ms = math.min(LONGEST_MS, math.ceil(window * 3000) + 1000)
  local raw = struct.pack(STATE, unpack(states[key], 1, fields))
  redis.call('SET', key, raw, 'PX', string.format('%.0f', kept_ms))
end

return replies
