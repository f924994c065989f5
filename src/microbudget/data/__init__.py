"""Data on disk: folders, splits, contents and caches."""
