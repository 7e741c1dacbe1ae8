"""Several processes as one training: launch, rendezvous, collectives, failures, signals."""
