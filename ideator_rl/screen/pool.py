"""What a screen is given, from a run's buffer and archive; shared by search and training.

    archive → outcomes to fit on;  sampled texts → candidates with their patches → the pool of a round

Where the implementer asks a model, candidates have no patch, and features and the test for known ideas are those of
the text alone; for that test, a text about another codebase is another idea.

Where ideas inherit code, the patch of a candidate is made on its base, and is then the one to the baseline: so is the
patch of each outcome, and a reward is that of the whole codebase.  Of a patch to the base, a forecast would credit the
last step with what its parents had reached.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ideator_rl.archive.archive import Archive
from ideator_rl.diversity.alarms import Alarm
from ideator_rl.executor.codebases import NoCodebase, OutdatedBase
from ideator_rl.executor.executor import Executor
from ideator_rl.experiment import NOT_PROMOTED
from ideator_rl.ideas import MalformedIdea, parse_idea
from ideator_rl.implementers.implementer import ImplementerUnavailable
from ideator_rl.reward_buffer import RewardBuffer
from ideator_rl.screen.alarms import ALARM_STEPS, active_screen_alarms
from ideator_rl.screen.config import ScreenConfig
from ideator_rl.screen.figures import MOST_STEPS, screen_steps
from ideator_rl.screen.predictor import Candidate, IdeatorModel, PredictorContext, Seen, load_predictor, usable
from ideator_rl.screen.screen import Pool, Screen
from ideator_rl.storage.forecasts import create_table, read_forecasts
from ideator_rl.storage.idea_context import Base, ideas_with_base
from ideator_rl.text.display import encodable


def open_screen(
    config: ScreenConfig,
    buffer: RewardBuffer,
    budget: int | None,
    embedder: str,
    ideator: str = "",
    model: IdeatorModel | None = None,
) -> Screen:
    """The screen of a run; its journal has the table of forecasts from here on.

    Args:
        budget: experiments of the run; None for no limit.
        ideator: its name, for messages.
        model: of the ideator; None where it has none in this process.

    Raises:
        IdeatorError: there is no such predictor, or the journal cannot be written.
    """
    environment = buffer.executor.environment
    context = PredictorContext(environment, buffer.config.preset, buffer.config.seed, embedder, ideator, model)
    predictor = load_predictor(config.predictor, context)
    create_table(buffer.journal)
    return Screen(config, predictor, config.outcomes_before(budget), environment.failure_reward)


def outcomes_of(archive: Archive, buffer: RewardBuffer, before: int | None = None) -> list[Seen]:
    """The outcomes that forecasts are fitted on, in the order in which they became known; no lost ones.

    Args:
        before: descents of this step and of later ones are left out; None for all.
    """
    previews = buffer.executor.previews
    # An idea that was proposed twice has the parents of its first time, whichever outcome came first.
    parents: dict[str, tuple[int, tuple[str, ...]]] = {}
    for child, ids, step in buffer.lineage:
        if before is None or step < before:
            parents[child] = min(parents.get(child, (step, ids)), (step, ids))
    # Candidates without a codebase are dropped: their like among the outcomes must not count either.  An idea that a
    # cascade held back has one, which ran at the cheaper preset alone, and so its record has no tree.
    return [
        Seen.of(record, parents[record.id][1] if record.id in parents else (), previews)
        for record in usable(archive.records())
        if record.tree or record.status == NOT_PROMOTED or not previews
    ]


async def read_pool(
    texts: Sequence[str],
    parents: Sequence[Sequence[str]],
    archive: Archive,
    buffer: RewardBuffer,
    known: set[str],
    bases: Sequence[Base | None] | None = None,
) -> Pool:
    """The pool of a round.

    Args:
        parents: experiment ids, for each text.
        archive: ideas in it are known.
        known: names of further codebases that are no candidates any more, as `candidate_of` returns them.
        bases: the codebase that each text changes; None where all change the baseline.
    """
    executor = buffer.executor
    known_names, known_patches = set(known), set[str]()
    if executor.previews:
        # Patches to the baseline are in one spelling: an equal one is the codebase that a cascade held back before.
        known_patches = {record.patch for record in archive.records() if record.status == NOT_PROMOTED}
    else:
        # Without a patch an idea has no tree yet: the same text about the same codebase is the same idea.
        base_trees = {(id, idea): tree for id, idea, tree in ideas_with_base(buffer.journal)}
        for record in archive.records():
            known_names.add(_name_of_text(record.idea, base_trees.get((record.id, record.idea), "")))
    candidates: list[Candidate | None] = []
    for text, ids, base in zip(texts, parents, bases or [None] * len(texts), strict=True):
        candidate, name = await candidate_of(executor, encodable(text), ids, base)
        is_known = name in known_names or archive.knows(name)
        is_new = candidate is not None and not is_known and candidate.patch not in known_patches
        candidates.append(candidate if is_new else None)
        # A repetition within the pool is dropped too, whichever of the two has the better forecast: they have one.
        known_names.add(name)
        await asyncio.sleep(0)  # other tasks of this loop may finish meanwhile
    return Pool([encodable(text) for text in texts], candidates)


async def candidate_of(
    executor: Executor, completion: str, parents: Sequence[str] = (), base: Base | None = None
) -> tuple[Candidate | None, str]:
    """An idea as a candidate and what names its codebase: the tree, or the text where no patch is made beforehand.

    None for a text without an idea, and for an idea without a codebase.

    Args:
        base: the codebase that the idea changes; None for the baseline.
    """
    try:
        idea = parse_idea(completion)
    except MalformedIdea:
        return None, ""
    without_patch = Candidate(idea.text, "", tuple(parents)), _name_of_text(idea.text, base.tree if base else "")
    if not executor.previews:
        return without_patch
    try:
        codebase = await executor.preview(idea, base)
    except OutdatedBase:  # the environment has changed since the idea was written: it would be lost
        return None, ""
    except ImplementerUnavailable:  # it may answer once the idea is run
        return without_patch
    if isinstance(codebase, NoCodebase):
        return None, ""
    return Candidate(idea.text, codebase.patch, tuple(parents)), codebase.tree_hash


def _name_of_text(idea: str, base_tree: str) -> str:
    """Names an idea without a codebase.

    Args:
        base_tree: hash of the codebase that it changes; empty for the baseline.
    """
    return f"{idea} on {base_tree}" if base_tree else idea


class ScreenAlarms:
    """The alarms of a run, as they begin."""

    def __init__(self, config: ScreenConfig, buffer: RewardBuffer):
        self._config, self._journal = config, buffer.journal
        self._failure = buffer.executor.environment.failure_reward
        self._active: set[str] = set()
        """Kinds that hold since an earlier step."""

    def new_alarms(self) -> list[Alarm]:
        """The alarms that began since the last call."""
        # Again as far back as alarms and the lifts that they compare look: a resumed run has not seen these steps.
        rows = read_forecasts(self._journal, with_texts=False, last_steps=ALARM_STEPS + MOST_STEPS)
        steps = screen_steps(rows, self._failure, ALARM_STEPS)
        active = active_screen_alarms(steps, self._config)
        beginnings = [alarm for alarm in active if alarm.kind not in self._active]
        self._active = {alarm.kind for alarm in active}
        return beginnings
