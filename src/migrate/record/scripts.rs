//! What is done to records, each in one step on the record's slot.

/// KEYS plan; ARGV plan, progress, expiry in ms.
pub(super) const DRAFT: &str = "redis.call('HSET',KEYS[1],'plan',ARGV[1],'progress',ARGV[2],'version','1') \
    redis.call('PEXPIRE',KEYS[1],ARGV[3]) return 1";

/// KEYS plan, lease, orders.
pub(super) const LOAD: &str = "local f=redis.call('HMGET',KEYS[1],'plan','progress','version') \
    return {f[1] or '',f[2] or '',f[3] or '0',redis.call('GET',KEYS[2]) or '',redis.call('LLEN',KEYS[3])}";

/// KEYS plan, lease; ARGV holder, lease in ms, token at least, how long the record stays at least, in ms. A holder that asks again, because the reply was lost, gets what it has.
pub(super) const TAKE: &str = "if redis.call('EXISTS',KEYS[1])==0 then return {0,''} end \
    local held=redis.call('GET',KEYS[2]) \
    if held then local token=string.match(held,'^(%d+) ') \
      if held==token..' '..ARGV[1] then redis.call('PEXPIRE',KEYS[2],ARGV[2]) return {1,token} end return {0,held} end \
    local token=math.max(tonumber(redis.call('HGET',KEYS[1],'token') or '0'),tonumber(ARGV[3])-1)+1 \
    redis.call('HSET',KEYS[1],'token',token,'obeyed',0,'lines',0) \
    local left=redis.call('PTTL',KEYS[1]) if left>=0 and left<tonumber(ARGV[4]) then redis.call('PEXPIRE',KEYS[1],ARGV[4]) end \
    redis.call('SET',KEYS[2],token..' '..ARGV[1],'NX','PX',ARGV[2]) \
    return {1,tostring(token)}";

/// KEYS plan, lease, log, orders; ARGV lease, lease in ms, the version that this write makes, progress, orders that were obeyed under this
/// lease, lines of log before these under this lease, expiry in ms or 0, lines of log kept, lines. All is counted from the lease's begin, so
/// that a write whose reply was lost may come again, by itself or within the next. Answers the orders that wait.
pub(super) const WRITE: &str = "if redis.call('GET',KEYS[2])~=ARGV[1] then return {0} end \
    local number=function(name) return tonumber(redis.call('HGET',KEYS[1],name) or '0') end \
    local version=number('version') if version>tonumber(ARGV[3]) then return {0} end \
    if version<tonumber(ARGV[3]) then \
      local obeyed=tonumber(ARGV[5])-number('obeyed') if obeyed>0 then redis.call('LTRIM',KEYS[4],obeyed,-1) end \
      local first,known=tonumber(ARGV[6]),number('lines') \
      for i=9,#ARGV do if first+i-9>=known then redis.call('XADD',KEYS[3],'MAXLEN','~',ARGV[8],'*','line',ARGV[i]) end end \
      redis.call('HSET',KEYS[1],'version',ARGV[3],'progress',ARGV[4],'obeyed',ARGV[5],'lines',math.max(known,first+#ARGV-8)) \
      for _,key in ipairs({KEYS[1],KEYS[3],KEYS[4]}) do \
        if ARGV[7]~='0' then redis.call('PEXPIRE',key,ARGV[7]) else redis.call('PERSIST',key) end end end \
    redis.call('PEXPIRE',KEYS[2],ARGV[2]) \
    local reply={1} for _,order in ipairs(redis.call('LRANGE',KEYS[4],0,-1)) do table.insert(reply,order) end \
    return reply";

/// KEYS lease; ARGV lease, lease in ms.
pub(super) const RENEW: &str =
    "if redis.call('GET',KEYS[1])==ARGV[1] then return redis.call('PEXPIRE',KEYS[1],ARGV[2]) end return 0";

/// KEYS lease; ARGV lease.
pub(super) const RELEASE: &str = "if redis.call('GET',KEYS[1])==ARGV[1] then return redis.call('DEL',KEYS[1]) end return 0";

/// KEYS plan, orders; ARGV order, most.
pub(super) const ORDER: &str = "if redis.call('EXISTS',KEYS[1])==0 or redis.call('LLEN',KEYS[2])>=tonumber(ARGV[2]) then return 0 end \
    return redis.call('RPUSH',KEYS[2],ARGV[1])";

/// KEYS wanted; ARGV how many stay, how long in ms, keys.
pub(super) const WANT: &str = "for i=3,#ARGV do redis.call('RPUSH',KEYS[1],ARGV[i]) end \
    redis.call('LTRIM',KEYS[1],-tonumber(ARGV[1]),-1) return redis.call('PEXPIRE',KEYS[1],ARGV[2])";

/// KEYS wanted. Answers and removes all.
pub(super) const WANTED: &str =
    "local all=redis.call('LRANGE',KEYS[1],0,-1) if #all>0 then redis.call('DEL',KEYS[1]) end return all";

/// KEYS index; ARGV field, id, the id that may be replaced. Answers who has it.
pub(super) const CLAIM: &str = "local held=redis.call('HGET',KEYS[1],ARGV[1]) \
    if held and held~=ARGV[2] and held~=ARGV[3] then return held end \
    redis.call('HSET',KEYS[1],ARGV[1],ARGV[2]) return ARGV[2]";

/// KEYS index; ARGV field, id.
pub(super) const UNCLAIM: &str =
    "if redis.call('HGET',KEYS[1],ARGV[1])==ARGV[2] then return redis.call('HDEL',KEYS[1],ARGV[1]) end return 0";
