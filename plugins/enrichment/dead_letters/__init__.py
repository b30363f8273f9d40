"""Messages that cannot be processed: written, read, and sent in again."""
