"""What a person sees in the terminal: lines, progress bars, time left."""
