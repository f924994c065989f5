"""Questions: what a language model can do, as accuracy. A facet of the kind: whether `--questions` is for a model."""
