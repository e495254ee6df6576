"""Strategies: which past ideas a prompt shows (`parents`), and what a search asks for (`asks`), one small file each.

Two interfaces, one choice of parents.  Training asks a `Strategy` for the parents of its prompts; a search asks a
`SearchStrategy` for its next questions, and takes any `Strategy` for one that asks for ideas which improve on its
parents.
"""

from ideator_rl.archive.parents import Parents, Puct, Strategy, TopK, get_strategy, puct
from ideator_rl.search.strategies.lookup import get_search_strategy
from ideator_rl.search.strategies.strategy import History, SearchStrategy, asks_of

__all__ = [
    "History", "Parents", "Puct", "SearchStrategy", "Strategy", "TopK", "asks_of", "get_search_strategy",
    "get_strategy", "puct",
]  # fmt: skip
