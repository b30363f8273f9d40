-- Forget the caches that are declared no longer. Their tables stay: a release that declares them again finds them, and who reads
-- them still can; DROP TABLE is a person's to say.
DELETE FROM enrichment_caches
WHERE cache <> ALL (%(caches)s)
