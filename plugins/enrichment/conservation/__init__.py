"""The proof that nothing was lost, doubled, altered or reordered: `python -m enrichment.conservation`."""
