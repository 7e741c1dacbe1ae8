"""Answers about images that the network was not trained on."""
