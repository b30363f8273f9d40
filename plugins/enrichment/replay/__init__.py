"""Past windows once more: what is in a window, in which batches it goes, how its output differs from before."""
