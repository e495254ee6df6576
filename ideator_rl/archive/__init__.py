"""The archive: every idea that was executed, the choice of parents from it, and prompts that show them."""
