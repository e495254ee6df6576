"""Search without training: ask an ideator for ideas, run them, and choose the next questions by the results."""
