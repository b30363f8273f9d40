"""What a request was about, and how risky it looks."""
