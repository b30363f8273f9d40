"""What batches did, by hour and day, and whether that kept the service levels."""
