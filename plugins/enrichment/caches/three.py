"""The caches that there are."""

from __future__ import annotations

from enrichment.caches.tables import CacheTable
from enrichment.messages import Context, Place, Profile

CACHES = (
    CacheTable("geo", "geo_ip_cache", "ip_address", Place),
    CacheTable("user", "user_profile_cache", "user_id", Profile),
    CacheTable("business", "business_context_cache", "request_id", Context, dependents=("business_risks",)),
)
BY_NAME = {table.cache: table for table in CACHES}
