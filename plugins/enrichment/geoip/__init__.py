"""A newer geo database: where it comes from, whether it is one, and how it takes the place of the one in use."""
