"""quantize a GGUF file: stock mixtures of llama.cpp, types by pattern, with an importance matrix."""
