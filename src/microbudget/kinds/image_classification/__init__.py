"""Image classification: photos to classes."""
