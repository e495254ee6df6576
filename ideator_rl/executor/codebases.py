"""From an idea to a judged codebase: the implementer's patch, applied in memory and judged by the environment's rules.

- An idea is implemented once, for all callers, processes and runs on one bucket: the answer is stored there.
- A stored answer is judged again whenever it is used, so that today's rules apply to yesterday's answers.

    implementations/<key>.json    the answer for an idea: status, message, patch, seconds, usage; created once
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
import time
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from ideator_rl.config.reader import parse_json
from ideator_rl.environments.environment import Environment, Preset
from ideator_rl.errors import IdeatorError
from ideator_rl.executor.record_store import Spec
from ideator_rl.executor.retry import Retry
from ideator_rl.experiment import BASELINE, LOST, OWN_FAILURES, proposal_id
from ideator_rl.ideas import Idea
from ideator_rl.implementers.coder_prompt import debug_version
from ideator_rl.implementers.implementer import Crash, Implementer, NotImplementable
from ideator_rl.patch import PatchError, Tree, diff, patched_tree, tree_hash
from ideator_rl.storage.bucket import Bucket, read_object
from ideator_rl.storage.idea_context import Base

MAX_JUDGEMENTS = 128
"""Patches whose judgement is kept in memory."""
MAX_REFUSED_PATCH = 50_000
"""Characters stored of a patch that led to no codebase: enough to see what it was."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Codebase:
    """A patched codebase that was judged and may be run."""

    tree: Tree
    tree_hash: str
    patch: str
    idea: str
    implementer: str
    trusted: bool
    seconds: float = 0.0
    """Wall seconds that the implementer took."""
    cost: dict[str, float] = field(default_factory=dict)
    """What the implementer was paid for this caller."""


@dataclass(frozen=True)
class NoCodebase:
    """Why an idea has no codebase."""

    status: str
    message: str
    patch: str
    cost: dict[str, float]


class OutdatedBase(IdeatorError):
    """The codebase that an idea was written against cannot be had any more: the environment has changed since."""


class Codebases:
    """The codebases of one environment, preset and implementer."""

    def __init__(
        self, environment: Environment, preset: Preset, implementer: Implementer, bucket: Bucket, retry: Retry
    ):
        self.environment, self.preset, self.implementer = environment, preset, implementer
        self.base = environment.baseline(preset.name)
        self._bucket, self._retry = bucket, retry
        self._digest = environment.digest(preset.name)
        self._version = implementer.version(environment)
        # Judged tree, patch to the baseline and hash of the tree, by base and by the patch as it was written.
        self._judgements: dict[tuple[str, str], tuple[Tree, str, str]] = {}
        # Ideas that are being implemented, by key.  `of_idea` adds, the end of the task removes.
        self._pending: dict[str, asyncio.Future[dict[str, Any]]] = {}

    def key(self, idea: str, base: Base | None = None) -> str:
        """Equal for ideas that share an answer."""
        version = self._version + (f" on {base.tree}" if base and base.tree else "")
        return proposal_id(idea, version, self._digest, self.preset.name)

    def baseline(self) -> Codebase:
        return Codebase(self.base, tree_hash(self.base), "", "", BASELINE, trusted=True)

    def base_tree(self, base: Base | None) -> Tree:
        """The codebase that an idea changes; the baseline for None.

        Raises:
            OutdatedBase: the environment is another than when the base was chosen.
        """
        if base is None or not base.tree:
            return self.base
        parents = " and ".join(base.parents)
        text = f"The code of {parents}, which this idea was written against, no longer applies to the environment"
        try:
            codebase = self.of_patch(base.patch, "", "", trusted=False)
        except PatchError as error:
            raise OutdatedBase(f"{text}: {error}. Undo the change of the environment, or start a new run.") from error
        if codebase.tree_hash != base.tree:
            raise OutdatedBase(f"{text} as it was. Undo the change of the environment, or start a new run.")
        return codebase.tree

    def patch_from(self, base: Base, patch: str) -> str:
        """The patch from a base to the codebase of an idea, whose patch to the baseline is given."""
        tree = self.of_patch(patch, "", "", trusted=False).tree if patch else self.base
        return diff(self.base_tree(base), tree)

    async def has_answer(self, idea: Idea) -> bool:
        """Whether the implementer's answer for an idea is stored.

        Raises:
            BucketError: the bucket cannot be read.
        """
        return await self._stored_answer(self.key(idea.text)) is not None

    async def of_idea(self, idea: Idea, base: Base | None = None) -> Codebase | NoCodebase:
        """The codebase for an idea, or why there is none.

        Args:
            base: the codebase that the idea's patch is for; None for the baseline.

        Raises:
            ImplementerUnavailable, BudgetSpent, BucketError, OutdatedBase: our fault, the idea was not judged.
        """
        return await self._of_answer(self.key(idea.text, base), idea, base)

    async def mended(self, idea: Idea, base: Base | None, failed: Codebase, words: str) -> Codebase | NoCodebase:
        """The codebase that the implementer writes for an idea once more, after its last one has crashed.

        The first answer for a crashed codebase is kept, whatever the traceback of another run of it.

        Args:
            base: as for `of_idea`.
            words: the end of its traceback, cleaned and untrusted.

        Raises:
            ImplementerUnavailable, BudgetSpent, BucketError, OutdatedBase: our fault, the idea was not judged.
        """
        on_base = f" on {base.tree}" if base and base.tree else ""
        version = f"{self._version}{on_base} debug {debug_version()} {failed.tree_hash}"
        key = proposal_id(idea.text, version, self._digest, self.preset.name)
        change = diff(self.base_tree(base), failed.tree)
        return await self._of_answer(key, idea, base, Crash(change, failed.tree_hash, words))

    async def _of_answer(
        self, key: str, idea: Idea, base: Base | None, crash: Crash | None = None
    ) -> Codebase | NoCodebase:
        # Asked first: where the bucket is away, nothing has been paid for yet.
        trusted = self.implementer.trusted and await self._is_own_code(base)
        # Callers of one event loop share the task; a task of another loop cannot be awaited here.
        task = self._pending.get(key)
        if task is None or task.get_loop() is not asyncio.get_running_loop():
            task = self._pending[key] = asyncio.ensure_future(self._answer(key, idea, base, crash))
            task.add_done_callback(lambda _: self._pending.pop(key, None))
        # Shielded: a caller that is cancelled must not cancel what others wait for.
        answer = await asyncio.shield(task)
        # The first caller that gets here takes the cost out of the shared answer, so that it is counted once.
        cost = answer.pop("usage", {})
        if answer["status"] != "ok":
            return NoCodebase(answer["status"], answer["message"], answer["patch"], cost)
        try:
            codebase = self.of_patch(answer["patch"], idea.text, self.implementer.name, trusted, base)
        except PatchError as error:  # an answer of another version, which judged by other rules
            return NoCodebase(error.kind, str(error), answer["patch"], cost)
        return replace(codebase, seconds=answer["seconds"], cost=cost)

    async def _is_own_code(self, base: Base | None) -> bool:
        """Whether the library wrote the codebase that an idea changes, by its parents' specifications in the bucket.

        A model wrote it where the run had another implementer before, or took the ideas of other runs.  A parent that
        the bucket does not hold proves nothing.
        """
        if base is None or not base.tree:
            return True
        for parent in base.parents:
            spec = await self._retry.call(partial(Spec.load, self._bucket, parent))
            # Of a merge, neither parent has the tree.
            if spec is None or not spec.trusted or (len(base.parents) == 1 and spec.tree != base.tree):
                return False
        return bool(base.parents)

    async def preview(self, idea: Idea, base: Base | None = None) -> Codebase | NoCodebase:
        """As `of_idea`, but nothing is stored: for ideas of which few will be run.

        Raises:
            ImplementerUnavailable: no answer could be had.
        """
        try:
            answer = await self._implement(idea, base)
        except IdeatorError:
            raise
        except Exception as error:
            # One idea ends no run; and a seeded ideator would write it again after --resume.
            log.exception("An idea is left out by a failure of its implementer or of ours.")
            return NoCodebase(LOST, f"It was left out by a failure: {error!r}", "", {})
        if answer["status"] != "ok":
            return NoCodebase(answer["status"], answer["message"], answer["patch"], answer["usage"])
        return self.of_patch(answer["patch"], idea.text, self.implementer.name, self.implementer.trusted, base)

    def of_patch(self, patch: str, idea: str, implementer: str, trusted: bool, base: Base | None = None) -> Codebase:
        """The codebase that a patch for a base leads to; its own patch is the one to the baseline.

        Raises:
            PatchError: the patch does not apply, or its tree breaks a rule.
            OutdatedBase: see `base_tree`.
        """
        # A new answer is judged by `_implement` and then by `of_idea`: the second time costs nothing.
        key = (base.tree if base else "", patch)
        judgement = self._judgements.get(key)
        if judgement is None:
            start = self.base_tree(base)
            tree = patched_tree(start, patch, self.environment.rules, self.base)
            if len(self._judgements) >= MAX_JUDGEMENTS:
                self._judgements.clear()
            judgement = self._judgements[key] = tree, diff(self.base, tree), tree_hash(tree)
        tree, clean_patch, name = judgement
        return Codebase(tree, name, clean_patch, idea, implementer, trusted)

    async def _answer(self, key: str, idea: Idea, base: Base | None, crash: Crash | None) -> dict[str, Any]:
        """The stored answer for an idea, else a new one."""
        stored = await self._stored_answer(key)
        if stored is not None:
            return stored
        answer = await self._implement(idea, base, crash)
        created = await self._retry.call(lambda: self._bucket.create(_path(key), json.dumps(answer).encode()))
        if not created:
            # Another process was quicker: its answer counts, so that one idea has one codebase.  We paid all the same.
            stored = await self._stored_answer(key)
            return answer if stored is None else stored | {"usage": answer["usage"]}
        return answer

    async def _stored_answer(self, key: str) -> dict[str, Any] | None:
        return await self._retry.call(lambda: read_object(self._bucket, _path(key), _parse_answer))

    async def _implement(self, idea: Idea, base: Base | None, crash: Crash | None = None) -> dict[str, Any]:
        tree = self.base_tree(base)
        started, patch, usage = time.monotonic(), "", dict[str, float]()
        try:
            implementer = self.implementer
            subject = (idea, tree, self.environment, self.preset.name)
            answering = implementer.debug(*subject, crash) if crash else implementer.implement(*subject)
            implementation = await answering
            patch, usage = implementation.patch, implementation.usage
            codebase = self.of_patch(patch, idea.text, implementer.name, implementer.trusted, base)
            # Stored as a patch for the base, in one spelling; without one, that is the patch to the baseline.
            patch = codebase.patch if tree is self.base else diff(tree, codebase.tree)
            # `of_patch` is called with this spelling next.
            self._judgements[base.tree if base else "", patch] = codebase.tree, codebase.patch, codebase.tree_hash
            status, message = "ok", ""
        except PatchError as error:
            status, message = error.kind, str(error)
            if isinstance(error, NotImplementable):
                patch, usage = error.patch, error.usage
            patch, message = head_of_refused(patch), head_of_refused(message)
        seconds = time.monotonic() - started
        return {"status": status, "message": message, "patch": patch, "seconds": seconds, "usage": usage}


def head_of_refused(text: str) -> str:
    """What a record stores of a refused patch: its beginning, and length and hash of a longer one."""
    if len(text) <= MAX_REFUSED_PATCH:
        return text
    # The hash keeps the records of two long patches apart that begin alike.
    name = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
    return f"{text[:MAX_REFUSED_PATCH]}\n… cut here; {len(text)} characters, SHA-256 {name}\n"


def _path(key: str) -> str:
    return f"implementations/{key}.json"


def _parse_answer(raw: bytes) -> dict[str, Any]:
    """An answer from the bucket, without its cost: it was paid for by another caller."""
    answer: dict[str, Any] = parse_json(raw, "it")
    if not all(isinstance(answer[name], str) for name in ("status", "message", "patch")):
        raise ValueError("a text is missing")
    if answer["status"] not in ("ok", *OWN_FAILURES) or not math.isfinite(answer["seconds"]):
        raise ValueError("its status or time is none that an implementer has")
    return answer | {"usage": {}}
