"""Images: decoding, preprocessing and views."""
