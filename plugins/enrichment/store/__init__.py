"""What a batch leaves behind: staged Arrow files, ledger rows, metrics."""
