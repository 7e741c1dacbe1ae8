"""What a machine has and what limits training on it, measured in seconds."""
