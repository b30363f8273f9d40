"""Bytes to Arrow columns and back."""
