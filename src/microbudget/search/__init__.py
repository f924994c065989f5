"""Search: from a budget to the best candidate."""
