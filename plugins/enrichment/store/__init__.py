"""What is stored of a batch: staged Arrow files, ledger rows, metrics."""
