"""What reward functions are built from: the decorator, options, running a batch, and shaping rewards."""
