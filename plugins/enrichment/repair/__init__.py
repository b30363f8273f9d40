"""Corrections of messages that were published without a source that had failed."""
