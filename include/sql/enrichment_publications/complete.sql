-- After a pass over a batch was published: up to which offsets it lies. The first answer counts.
UPDATE enrichment_publications
SET
    ranges = %(ranges)s,
    complete = true,
    updated_at = now()
WHERE batch_id = %(batch_id)s
  AND pass = %(pass)s
  AND NOT complete
