"""Search strategies, one small file each.

A `SearchStrategy` returns the next questions of a search (`asks`).  A `Strategy` picks the parents that training's
prompts show (`parents`); a search accepts it too and asks for ideas that improve on these parents (`reuse`).
"""

from ideator_rl.archive.parents import Parents, Puct, Strategy, TopK, get_strategy, puct
from ideator_rl.search.strategies.lookup import get_search_strategy
from ideator_rl.search.strategies.strategy import History, SearchStrategy, ask_strategy

__all__ = [
    "History", "Parents", "Puct", "SearchStrategy", "Strategy", "TopK", "ask_strategy", "get_search_strategy",
    "get_strategy", "puct",
]  # fmt: skip
