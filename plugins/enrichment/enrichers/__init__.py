"""What is added to a message: geography, user profile, business context with a risk score.

An enrichment is a package here, and its declaration stands in this tuple. The order is that of the output's columns and
of `enrichment_sources`; an enrichment reads only what stands before it.
"""

from __future__ import annotations

from enrichment.enrichers.business import BUSINESS
from enrichment.enrichers.geo import GEO
from enrichment.enrichers.user import USER

ENRICHERS = (GEO, USER, BUSINESS)
