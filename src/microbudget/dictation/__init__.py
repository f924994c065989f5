"""Dictation: what a teacher writes for each recording and how sure it is; asked once, then read from the disk."""
