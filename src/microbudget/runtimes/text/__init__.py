"""Text runtimes: a tokenizer and a network, from texts to logits. Without torch unless the network needs it."""
