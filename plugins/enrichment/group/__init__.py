"""The consumer group of live draining: where it is, how many lanes publish for it, and what a person may change."""
