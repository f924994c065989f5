"""A torch module of an ONNX graph, which can be trained or pruned and written back into the same graph."""
