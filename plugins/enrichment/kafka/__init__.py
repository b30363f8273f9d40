"""The broker's side: which offsets to read, reading them, publishing in a transaction."""
