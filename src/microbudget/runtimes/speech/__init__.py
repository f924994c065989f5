"""What the sessions of speech models share."""
