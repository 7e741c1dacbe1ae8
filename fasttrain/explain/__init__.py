"""What a trained network gets wrong, and where it looked: Grad-CAM, accuracy by class, mistakes."""
