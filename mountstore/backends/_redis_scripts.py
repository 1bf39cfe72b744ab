"""What a RedisStore does within the server, each script being one step to everybody else.

Names: `keys` is the sorted set of all keys (score 0, so that members are in the order of their bytes);
`o/KEY` is a hash of an object: e (etag), s (size), t (mtime in ns), m (metadata, JSON); `d/ETAG/N` is the
N-th piece of its bytes. Pieces never change, so a reader that is between two of them sees no mix; those of
an object of several pieces live on for a while after it was replaced or deleted, for such readers.

Every script takes the root of the names as its first argument. Answers begin with a word that says what
became of it: ok, missing, exists or changed. One server, or one primary with replicas: not Redis Cluster.
"""

from __future__ import annotations

_COMMON = """
local root = ARGV[1]
local function object(key) return root .. 'o/' .. key end
local function piece(etag, number) return root .. 'd/' .. etag .. '/' .. number end
local function state(key) return redis.call('HMGET', object(key), 'e', 's', 't', 'm', 'n') end
local function release(etag, count, grace)
  if count == 1 then redis.call('UNLINK', piece(etag, 0)) return end
  for number = 0, count - 1 do redis.call('EXPIRE', piece(etag, number), grace) end
end
local function refused(found, want)
  if want == '' then return false end
  if want == '!' then return found[1] and 'exists' end
  if not found[1] then return 'missing' end
  return found[1] ~= string.sub(want, 2) and 'changed'
end
"""

# ARGV: root, key, condition, etag, size, mtime, metadata, pieces, grace[, the bytes of the only piece]
PUT = (
    _COMMON
    + """
local key, etag, count = ARGV[2], ARGV[4], tonumber(ARGV[8])
local old = state(key)
if old[1] == etag then return {'ok'} end
local no = refused(old, ARGV[3])
if no then return {no} end
if ARGV[10] then
  redis.call('SET', piece(etag, 0), ARGV[10])
else
  for number = 0, count - 1 do
    if redis.call('PERSIST', piece(etag, number)) == 0 then return {'gone'} end
  end
end
redis.call('HSET', object(key), 'e', etag, 's', ARGV[5], 't', ARGV[6], 'm', ARGV[7], 'n', ARGV[8])
redis.call('ZADD', root .. 'keys', 0, key)
if old[1] then release(old[1], tonumber(old[5]), tonumber(ARGV[9])) end
return {'ok'}
"""
)

# ARGV: root, key, condition, grace
DELETE = (
    _COMMON
    + """
local key = ARGV[2]
local old = state(key)
if not old[1] then return {'missing'} end
local no = refused(old, ARGV[3])
if no then return {no} end
redis.call('DEL', object(key))
redis.call('ZREM', root .. 'keys', key)
release(old[1], tonumber(old[5]), tonumber(ARGV[4]))
return {'ok'}
"""
)

# ARGV: root, key, condition, start, stop (-1: the end), most
GET = (
    _COMMON
    + """
local found = state(ARGV[2])
if not found[1] then return {'missing'} end
if refused(found, ARGV[3]) then return {'changed'} end
local start, stop, size = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(found[2])
if stop < 0 or stop > size then stop = size end
if tonumber(found[5]) > 1 or stop - start > tonumber(ARGV[6]) then
  return {'pieces', found[1], found[2]}
end
if start > size then return {'range', found[1], found[2]} end
local data = ''
if stop > start then data = redis.call('GETRANGE', piece(found[1], 0), start, stop - 1) end
return {'ok', found[1], found[2], data}
"""
)

# ARGV: root, source, condition, target, grace
RENAME = (
    _COMMON
    + """
local source, target = ARGV[2], ARGV[4]
local found = state(source)
if not found[1] then return {'missing'} end
if refused(found, ARGV[3]) then return {'changed'} end
if source ~= target then
  local old = state(target)
  redis.call('RENAME', object(source), object(target))
  redis.call('ZREM', root .. 'keys', source)
  redis.call('ZADD', root .. 'keys', 0, target)
  if old[1] then release(old[1], tonumber(old[5]), tonumber(ARGV[5])) end
end
return {'ok', found[1], found[2], found[3], found[4]}
"""
)

# ARGV: root, key, condition, metadata
UPDATE = (
    _COMMON
    + """
local found = state(ARGV[2])
if not found[1] then return {'missing'} end
if refused(found, ARGV[3]) then return {'changed'} end
redis.call('HSET', object(ARGV[2]), 'm', ARGV[4])
return {'ok', found[1], found[2], found[3], ARGV[4]}
"""
)

# ARGV: root, prefix, delimiter, after, limit, where to begin
# Lua compares strings by the server's locale, so order is left to the sorted set: as all keys seen lie
# behind `after`, a group is not behind it only if it is a prefix of it.
LIST = (
    _COMMON
    + """
local prefix, delimiter, after, limit = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local low = ARGV[6]
local high = prefix == '' and '+' or '(' .. prefix .. '\\255'
local objects, groups, count, last = {}, {}, 0, after
local room = delimiter == '' and limit + 1 or 64
while true do
  local keys = redis.call('ZRANGEBYLEX', root .. 'keys', low, high, 'LIMIT', 0, room)
  if #keys == 0 then return {objects, groups, ''} end
  for _, key in ipairs(keys) do
    local from, to
    if delimiter ~= '' then from, to = string.find(key, delimiter, #prefix + 1, true) end
    if from then
      local group = string.sub(key, 1, to)
      if string.sub(after, 1, #group) ~= group then
        if count == limit then return {objects, groups, last} end
        groups[#groups + 1] = group
        count = count + 1
        last = group
      end
      low = '(' .. group .. '\\255'
      break
    end
    if count == limit then return {objects, groups, last} end
    local found = redis.call('HMGET', object(key), 's', 't', 'e')
    objects[#objects + 1] = {key, found[1], found[2], found[3]}
    count = count + 1
    last = key
    low = '(' .. key
  end
end
"""
)
