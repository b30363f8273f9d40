"""Whether live enrichment is well at this moment, and what is the matter if it is not."""
