"""Kinds: a folder for each kind of model, with the same facets under the same file names."""
