"""Replaces the geo database in use with a newer one."""
