"""Explains a trained network: accuracy by class, mistakes, and Grad-CAM maps."""
