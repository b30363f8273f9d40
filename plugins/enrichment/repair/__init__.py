"""Corrections of what was published without a source that failed."""
