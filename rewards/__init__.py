"""Reward functions that a recipe, a stock TRL trainer, or a search can name."""
