"""The machine: its processor, its clock, its files."""
