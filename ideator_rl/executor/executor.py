"""The executor: ideas in, experiments out.  The whole way of an idea on one page.

    completion → idea → patch (implementer) → judged codebase → bucket → scheduler → worker → record

Every outcome is a record; nothing raises for an idea's sake.  Equal ideas are implemented once and equal codebases
run once, whoever asked before: the record is then replayed from the bucket.  A `lost` record is ours to explain and is
never stored as a result, so that a later run may try again.  An outage of the bucket that is shorter than
`outage_patience` loses nothing and pays for nothing twice: what was implemented is kept until it can be stored.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ideator_rl.environments.environment import Environment, load_environment
from ideator_rl.errors import IdeatorError
from ideator_rl.executor import store as attempts
from ideator_rl.executor.backends import Backend, get_backend
from ideator_rl.executor.backends.in_process import LEVEL, REASON, Runner
from ideator_rl.executor.retry import Patience
from ideator_rl.executor.scheduler import Lost, Scheduler
from ideator_rl.experiment import (
    BUDGET,
    LOST,
    MALFORMED,
    Experiment,
    experiment_id,
    hardware_class,
    proposal_id,
)
from ideator_rl.ideas import MalformedIdea, parse_idea
from ideator_rl.implementers.implementer import Implementer, ImplementerUnavailable, get_implementer
from ideator_rl.patch import PatchError, Tree, diff, patched_tree, tree_hash
from ideator_rl.reward import RewardRule, reward_rule
from ideator_rl.sandbox.sandbox import BWRAP, Sandbox, choose
from ideator_rl.storage.bucket import Bucket, BucketError, open_bucket
from ideator_rl.storage.ledger import BudgetSpent, Caps, Ledger, Spent

log = logging.getLogger(__name__)

MOST_JUDGEMENTS = 128
"""Patches whose judgement is kept in memory."""


@dataclass(frozen=True)
class ExecutorConfig:
    """Where and how experiments are run."""

    environment: str
    preset: str
    bucket: str
    implementer: str = "rules"
    slots: int | None = None
    """Experiments at once on this machine, in CPU slots; None for the number of cores."""
    isolation: str = "auto"
    seed: int = 0
    coder: str = ""
    """Settings of the implementer, as JSON: text, so that a configuration can be a key and a dataset's column."""
    reward_transform: str | None = None
    """A transform in the place of the environment's own, such as `over_baseline`."""
    max_usd: float | None = None
    max_coder_tokens: int | None = None
    max_gpu_hours: float | None = None
    run_dir: str | None = None
    """Where the run's journal and ledger lie; None for the user's cache and for nowhere."""
    backend: str = "local"
    """Who starts the experiments: `local`, `bucket` (whoever watches it), `in_process` (nobody: codebases are data), an
    entry point, or a class by dotted path."""
    outage_patience: float = 3600.0
    """Seconds that an outage of the bucket may last before what waits for it is lost."""

    @property
    def ledger_path(self) -> Path | None:
        return Path(self.run_dir) / "ledger.json" if self.run_dir else None


@dataclass(frozen=True)
class Codebase:
    """A patched codebase that was judged and may be run."""

    tree: Tree
    patch: str
    idea: str
    implementer: str
    trusted: bool
    name: str = ""
    """Hash of the tree; empty where nobody has computed it."""
    seconds: float = 0.0
    """Wall seconds that the implementer took."""
    cost: dict[str, float] = field(default_factory=dict)
    """What the implementer was paid."""


class Executor:
    def __init__(self, config: ExecutorConfig):
        self.config = config
        self.environment: Environment = load_environment(config.environment)
        self.preset = self.environment.preset(config.preset)
        self.bucket: Bucket = open_bucket(config.bucket)
        caps = Caps(config.max_usd, config.max_coder_tokens, config.max_gpu_hours)
        self.ledger = Ledger(caps, config.ledger_path)
        settings = json.loads(config.coder) if config.coder else None
        self.implementer: Implementer = get_implementer(config.implementer, settings, self.ledger)
        self.sandbox = choose(config.isolation, self.implementer.trusted)
        self.base = self.environment.baseline(config.preset)
        self.environment.data(config.preset)
        self._digest = self.environment.digest(config.preset)
        self._rule: RewardRule = reward_rule(self.environment, config.preset, config.reward_transform)
        self._version = self.implementer.version(self.environment)
        self._hardware = hardware_class(self.preset.resources.gpus)
        self._judgements: dict[str, tuple[Tree, str, str]] = {}
        """Tree, patch in one spelling and hash of the tree, by the patch that was judged: an answer is judged when it
        is given, and again whenever it is replayed."""
        self._asking: dict[str, asyncio.Future[dict[str, Any]]] = {}
        backend = get_backend(config.backend)(self.bucket.url, config.slots, config.isolation)
        backend.refuse_if_too_large(self.preset.resources)
        self._at_once: Runner | None = None
        if hasattr(backend, "runner"):
            self._at_once = backend.runner(self.environment, self.preset)
            self.sandbox = Sandbox(LEVEL, REASON)
        self._patience = Patience(self.bucket.url, config.outage_patience)
        self.backend: Backend = backend
        self.scheduler = Scheduler(self.bucket, backend, patience=self._patience)

    async def execute(self, completion: str, replicate: int = 0) -> Experiment:
        """Run the idea in a completion; any outcome is a record."""
        created = time.time()
        completion = completion.encode("utf-8", "replace").decode()  # half a surrogate pair has no bytes
        try:
            idea = parse_idea(completion)
        except MalformedIdea as error:
            return await self._failure(MALFORMED, str(error), completion, created, "")
        try:
            made = await self._implement(idea.text, completion)
            if isinstance(made, Experiment):
                return made
            return await self._run(made, created, replicate)
        except (BucketError, ImplementerUnavailable, BudgetSpent) as error:
            return self._lost(idea.text, created, error)
        except IdeatorError:
            raise  # of the run, not of this idea: it says what to do
        except Exception as error:
            log.exception("An idea was lost by a failure of ours.")
            return self._lost(idea.text, created, IdeatorError(f"It was lost by a failure of ours: {error!r}"))

    async def execute_patch(self, patch: str, replicate: int = 0) -> Experiment:
        """Run a patch that somebody wrote by hand: it takes the same road as an implementer's.

        Raises:
            SandboxError: no sandbox works here and `isolation` does not say `none`.
        """
        choose(self.config.isolation, trusted=False)
        created, patch = time.time(), patch.encode("utf-8", "replace").decode()
        try:
            codebase = self._judged(patch, "", "diff", trusted=False)
        except PatchError as error:
            return await self._failure(error.kind, str(error), "", created, patch)
        return await self._run(codebase, created, replicate)

    async def baseline(self, replicate: int = 0) -> Experiment:
        """Run the unchanged baseline."""
        return await self._run(Codebase(self.base, "", "", "baseline", trusted=True), time.time(), replicate)

    async def again(self, id: str, replicate: int) -> Experiment:
        """Run the codebase of an experiment in the bucket under another replicate's seed.

        Raises:
            IdeatorError: the bucket does not hold the experiment or its codebase.
            SandboxError: somebody else wrote its code, and no sandbox works here.
        """
        spec = await self._patience.through(lambda: attempts.Spec.load(self.bucket, id))
        tree = await self._patience.through(lambda: attempts.load_tree(self.bucket, spec.tree)) if spec else None
        if spec is None or tree is None:
            raise IdeatorError(f"The bucket {self.bucket.url} does not hold the codebase of the experiment {id}.")
        choose(self.config.isolation, spec.trusted)
        codebase = Codebase(tree, spec.patch, spec.idea, spec.implementer, spec.trusted)
        return await self._run(codebase, time.time(), replicate)

    async def _implement(self, idea: str, completion: str) -> Codebase | Experiment:
        """The codebase for an idea, or the record of why there is none.  Asked once for each idea."""
        created = time.time()
        key = proposal_id(idea, self._version, self._digest, self.preset.name)
        asked = self._asking.get(key)
        if asked is None or asked.get_loop() is not asyncio.get_running_loop():
            asked = self._asking[key] = asyncio.ensure_future(self._answer(key, idea, completion))
            asked.add_done_callback(lambda _: self._asking.pop(key, None))
        answer = await asyncio.shield(asked)
        cost = answer.pop("usage", {})  # paid once: of those who asked together, one record carries it
        if answer["status"] != "ok":
            return await self._failure(answer["status"], answer["message"], idea, created, answer["patch"], cost)
        codebase = self._judged(answer["patch"], idea, self.implementer.name, self.implementer.trusted)
        return replace(codebase, seconds=answer["seconds"], cost=cost)

    async def _answer(self, key: str, idea: str, completion: str) -> dict[str, Any]:
        name = f"implementations/{key}.json"
        stored = await self._patience.through(lambda: self.bucket.get(name))
        if stored is not None:
            answer: dict[str, Any] = json.loads(stored) | {"usage": {}}  # paid for by whoever asked then
            return answer
        answer = await self._ask(idea, completion)
        if not await self._patience.through(lambda: self.bucket.create(name, json.dumps(answer).encode())):
            # Somebody asked meanwhile: one idea, one codebase.
            first = await self._patience.through(lambda: self.bucket.get(name))
            return answer if first is None else json.loads(first) | {"usage": answer["usage"]}
        return answer

    async def _ask(self, idea: str, completion: str) -> dict[str, Any]:
        started, patch, usage = time.monotonic(), "", dict[str, float]()
        try:
            made = await self.implementer.implement(
                parse_idea(completion), self.base, self.environment, self.preset.name
            )
            patch, usage = made.patch, made.usage
            patch = self._judged(patch, idea, self.implementer.name, self.implementer.trusted).patch
            status, message = "ok", ""
        except PatchError as error:
            status, message = error.kind, str(error)
            patch, usage = getattr(error, "patch", patch), getattr(error, "usage", usage)
        seconds = time.monotonic() - started
        return {"status": status, "message": message, "patch": patch, "seconds": seconds, "usage": usage}

    def _judged(self, patch: str, idea: str, implementer: str, trusted: bool) -> Codebase:
        """Raises: PatchError when the patch does not apply or its tree breaks a rule."""
        found = self._judgements.get(patch)
        if found is None:
            tree = patched_tree(self.base, patch, self.environment.rules)
            if len(self._judgements) >= MOST_JUDGEMENTS:
                self._judgements.clear()
            found = self._judgements[patch] = tree, diff(self.base, tree), tree_hash(tree)
        tree, clean, name = found
        return Codebase(tree, clean, idea, implementer, trusted, name=name)

    async def _run(self, codebase: Codebase, created: float, replicate: int) -> Experiment:
        name = codebase.name or tree_hash(codebase.tree)
        # What ran unmasked must never be replayed as if it had been sealed.
        hardware = self._hardware + ("" if self.sandbox.level == BWRAP else self.sandbox.level)
        id = experiment_id(name, self._digest, self.preset.name, hardware, self.config.seed, replicate)
        try:
            record = await self._patience.through(lambda: attempts.load_result(self.bucket, id))
            if record is None:
                spec = self._spec(id, name, codebase, created, replicate)
                # At once and first, so that what is refused leaves nothing behind that waits to be run.
                ran = self._at_once(spec, codebase.tree) if self._at_once is not None else None
                await self._patience.through(lambda: attempts.store_tree(self.bucket, name, codebase.tree))
                await self._patience.through(lambda: spec.store(self.bucket))
                record = await self._paid(id) if ran is None else await self._kept(ran)
            else:
                record.replayed = True
        except (Lost, BucketError, BudgetSpent) as error:
            return replace(self._lost(codebase.idea, created, error), id=id, tree=name, patch=codebase.patch)
        # A copy: those who wait for one experiment share its record, and each has paid for an idea of its own.
        return replace(record, reward=self._rule.reward(record), cost=codebase.cost)

    async def _kept(self, record: Experiment) -> Experiment:
        """The record of an experiment that was run here and at once, in the bucket."""
        await self._patience.through(lambda: attempts.store_result(self.bucket, record))
        return record

    async def _paid(self, id: str) -> Experiment:
        """The record of an experiment, its GPU-hours booked; one that is asked for twice is paid for once.

        Raises:
            Lost: its attempts were used up.
            BudgetSpent: it could cost more GPU-hours than the run has left.
        """
        if id in self.scheduler.waiting:
            return await asyncio.shield(self.scheduler.result(id, self.preset.resources))
        gpus, budget = self.preset.resources.gpus, self.preset.budget
        most = Spent(gpu_hours=gpus * (budget.seconds + budget.startup_allowance) / 3600)
        with self.ledger.reserve(most) as held:
            record = await asyncio.shield(self.scheduler.result(id, self.preset.resources))
            held.actual = Spent(gpu_hours=gpus * record.seconds.get("run", 0.0) / 3600)
        return record

    def _spec(self, id: str, tree: str, codebase: Codebase, created: float, replicate: int) -> attempts.Spec:
        return attempts.Spec(
            id=id,
            environment=self._portable_name(),
            digest=self._digest,
            preset=self.preset.name,
            seed=self.config.seed,
            replicate=replicate,
            tree=tree,
            idea=codebase.idea,
            patch=codebase.patch,
            implementer=codebase.implementer,
            trusted=codebase.trusted,
            hardware=self._hardware,
            implement_seconds=codebase.seconds,
            created=created,
        )

    def _portable_name(self) -> str:
        """The environment's name where it can be loaded by it, else its folder."""
        named = self.config.environment == self.environment.name
        return self.environment.name if named else str(self.environment.root)

    async def _failure(
        self,
        status: str,
        message: str,
        idea: str,
        created: float,
        patch: str,
        cost: dict[str, float] | None = None,
    ) -> Experiment:
        """The record of an idea that never became a codebase; stored, so that status and report can list it."""
        record = self._blank(status, idea or patch, created)
        record.idea, record.patch = idea, patch
        record.error = {"kind": status, "message": message}
        record.reward, record.cost = self._rule.failure, cost or {}
        try:
            await self._patience.through(lambda: attempts.store_result(self.bucket, record))
        except BucketError as error:
            return self._lost(idea, created, error)
        return record

    def _lost(self, idea: str, created: float, error: Exception) -> Experiment:
        record = self._blank(LOST, idea, created)
        spent = isinstance(error, BudgetSpent) or isinstance(error.__cause__, BudgetSpent)
        record.error = {"kind": BUDGET if spent else LOST, "message": str(error)}
        return record

    def _blank(self, status: str, idea: str, created: float) -> Experiment:
        return Experiment(
            id=proposal_id(idea, self._version, self._digest, self.preset.name),
            status=status,
            idea=idea,
            environment=self.environment.name,
            preset=self.preset.name,
            seed=self.config.seed,
            created=created,
            finished=time.time(),
            implementer=self.implementer.name,
            hashes={"environment": self._digest},
            hardware=self._hardware,
        )
