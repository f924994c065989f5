"""Recipes: text to steps to built folders."""
