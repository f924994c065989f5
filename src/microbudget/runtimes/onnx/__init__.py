"""ONNX Runtime and ONNX graphs."""
