"""A newer geo database in the place of the one in use."""
