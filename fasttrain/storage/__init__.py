"""Files and checkpoints that survive a crash."""
