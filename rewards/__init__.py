"""Reward functions that a recipe, a stock TRL trainer, or a search can name."""

from ideator_rl._imports import alias_shipped

BUILT_IN = {
    "execution": "execution.execution_reward",
    "improvement": "improvement.improvement_reward",
    "format": "format.format_reward",
    "length": "length.length_reward",
    "novelty": "novelty.novelty_reward",
    "similarity": "similarity.similarity_penalty",
    "simplicity": "simplicity.simplicity_reward",
}
"""Name in a recipe → module and function in this folder."""

alias_shipped(__name__)
