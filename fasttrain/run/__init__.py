"""One training run from start to report: its directory, checkpoints, signals and summary."""
