"""Transcription: recordings to text."""
