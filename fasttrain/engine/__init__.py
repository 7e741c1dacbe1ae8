"""The training engine: the loop, the step and the metrics."""
