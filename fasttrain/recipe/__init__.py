"""What is trained, as a frozen dataclass whose fields are the command line's flags."""
