-- Places that may be served now by country, most addresses first: the eviction's report. Absent addresses have no country.
SELECT
    coalesce(country, 'unknown') AS country,
    count(*) AS addresses
FROM v_active_geo_cache
GROUP BY 1
ORDER BY addresses DESC, country
LIMIT %(row_limit)s
