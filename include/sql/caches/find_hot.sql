-- The keys to renew before they expire: those that expire within `ahead` and were used again after they were fetched, the
-- ones used last first. An empty `version` means any.
SELECT {key}
FROM {table}
WHERE expires_at <= now() + %(ahead)s
  AND expires_at > now()
  AND last_used_at > fetched_at
  AND (%(version)s = '' OR version = %(version)s)
ORDER BY last_used_at DESC
LIMIT %(row_limit)s
