"""The archive of executed ideas, the choice of parents from it, and the prompts that show them."""
