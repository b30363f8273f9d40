-- Caches, and the risks of cached requests, are not logged: what a crash empties is fetched again (docs/decisions/0016).

DO $$
DECLARE
    cached text;
BEGIN
    FOR cached IN
        SELECT table_name FROM enrichment_caches
        UNION ALL
        SELECT 'business_risks'
    LOOP
        IF to_regclass(quote_ident(cached)) IS NOT NULL THEN
            EXECUTE format('ALTER TABLE %I SET UNLOGGED', cached);
        END IF;
    END LOOP;
END
$$;
