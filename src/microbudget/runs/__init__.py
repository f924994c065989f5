"""Runs: what a run keeps on disk, and where."""
