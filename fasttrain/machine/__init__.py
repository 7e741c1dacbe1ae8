"""Properties of this machine: devices, precisions, memory, versions."""
