"""StackLens enrichment: log messages in, enriched log messages out, exactly once."""
