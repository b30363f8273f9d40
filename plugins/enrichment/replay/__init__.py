"""Replay of past windows: the messages of a window, their batches, and how their outputs differ from before."""
