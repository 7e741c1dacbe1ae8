"""A page on this machine where a person tries a trained run on images of their own."""
