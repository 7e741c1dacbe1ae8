"""The loop, the step and the metrics: what trains."""
