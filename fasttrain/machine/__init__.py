"""What this machine can do: devices, precisions, memory, versions."""
