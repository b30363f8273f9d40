"""The centre: a batch from its offset ranges to its publication."""
