"""Questions: what a language model can do, as accuracy."""
