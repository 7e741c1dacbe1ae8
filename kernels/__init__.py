"""GPU kernels in Triton; they import torch and triton and never fasttrain."""
