"""Dictation: what a teacher writes for each recording, and with which probabilities; asked once, then read from disk."""
