"""Hugging Face folders in torch."""
