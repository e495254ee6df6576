"""The recipe of a training run: its keys, their ranges, and the names that it refers to."""
