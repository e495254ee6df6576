"""What is known, and how it is used: the archive, parents chosen from it, prompts that carry them."""
