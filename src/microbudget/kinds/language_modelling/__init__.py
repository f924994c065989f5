"""Language modelling: text and conversations."""
