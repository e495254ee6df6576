"""An ideator that climbs: every answer moves x or y half a step further than the answer before."""

from ideator_rl.environment import Environment
from ideator_rl.errors import IdeatorError
from ideator_rl.ideas import parse_idea
from ideator_rl.ledger import Ledger, Spent
from ideator_rl.search.archive import Archive
from ideator_rl.search.asking import Answer, Ask, Ideator, Subject
from old_plugin import note


class Ladder:
    name = "old_ladder"

    def __init__(self, environment: Environment, top: float, ledger: Ledger):
        self._environment, self._top, self._ledger, self._step = environment, top, ledger, 0

    @classmethod
    def from_settings(cls, settings, subject: Subject, ledger: Ledger) -> Ideator:
        if unknown := set(settings) - {"top"}:
            raise IdeatorError(f"The ideator old_ladder has no setting {sorted(unknown)[0]!r}.")
        assert subject.prompt()
        return cls(subject.environment, float(settings.get("top", 9.0)), ledger)

    async def ideas(self, ask: Ask, archive: Archive) -> list[str]:
        note("ladder", kind=ask.kind, shown=len(ask.shown), environment=self._environment.name)
        with self._ledger.reserve(Spent(tokens=1)):
            return [self._idea(ask) for _ in range(ask.count)]

    def _idea(self, ask: Ask) -> str:
        self._step += 1
        value = min(self._top, self._step / 2)
        name = "x" if self._step % 2 else "y"
        text = f"[Experiment] Move {name} to {value}. [Code Changes] Set {name} to {value}. [End]"
        assert parse_idea(text).changes
        return Answer(text, ask.shown) if ask.shown else text

    def remember(self, texts) -> None:
        self._step = len(texts)

    def close(self) -> None:
        note("ladder closed")
