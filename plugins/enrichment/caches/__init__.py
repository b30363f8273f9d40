"""The tiers in front of a slow source: memory, PostgreSQL, the source itself."""
