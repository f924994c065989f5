"""What the methods that teach a language model share."""

INSTEAD = "a language model is taught with lora and made smaller with prune, trim and quantize"
