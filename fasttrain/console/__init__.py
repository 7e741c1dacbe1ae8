"""Terminal output: lines, progress bars, time left."""
