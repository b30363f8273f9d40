"""What is added to a message: geography, user profile, business context with a risk score."""
