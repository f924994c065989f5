"""What the sessions of language models share."""
