"""The executor: ideas in, experiments out.  The path of an idea on one page.

    completion → idea → codebase (`codebases`) → bucket (`record_store`) → `scheduler` → backend → `worker` → record

- Every outcome is a record; an idea never raises.
- Equal ideas are implemented once and equal codebases run once, by whichever run: later the record is replayed from the
  bucket.
- A `lost` record is our fault.  It is never stored as a result, so that a later run may try again.
- A cause of loss that does not pass ends the run (`losses`): from then on ideas are lost at once, and nothing is asked.
- An outage of the bucket shorter than `outage_patience` loses nothing and pays for nothing twice.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic.dataclasses import dataclass as config_dataclass

from ideator_rl.config.base import Integer, PlainAmount
from ideator_rl.config.reader import parse_json
from ideator_rl.config.shared import ExperimentSettings
from ideator_rl.environments.environment import Environment, load_environment
from ideator_rl.environments.feedback import feedback_of
from ideator_rl.environments.preset import FEEDBACK_TEXT
from ideator_rl.errors import IdeatorError
from ideator_rl.executor import record_store
from ideator_rl.executor.backends import Backend, backend_class
from ideator_rl.executor.backends.in_process import IN_PROCESS
from ideator_rl.executor.cascade import Origin, Stage, open_cascade, unfit_patch
from ideator_rl.executor.codebases import Codebase, Codebases, NoCodebase, OutdatedBase, head_of_refused
from ideator_rl.executor.losses import Losses, RunStopped
from ideator_rl.executor.retry import Retry
from ideator_rl.executor.scheduler import Lost, Scheduler
from ideator_rl.experiment import BUDGET, FAILED, LOST, MALFORMED, NOT_PROMOTED, Experiment, hardware_class, total_cost
from ideator_rl.ideas import Idea, MalformedIdea, parse_idea
from ideator_rl.implementers.implementer import (
    BUILT_IN,
    Implementer,
    ImplementerUnavailable,
    debug_rounds,
    estimate_cost,
    get_implementer,
    probe,
    writes_trusted_code,
)
from ideator_rl.patch import PatchError, tree_hash
from ideator_rl.reward import RewardRule, reward_rule
from ideator_rl.sandbox.choose import choose_sandbox, with_image
from ideator_rl.storage.bucket import Bucket, BucketError, open_bucket
from ideator_rl.storage.idea_context import Base
from ideator_rl.storage.ledger import BudgetSpent, Caps, Ledger, Spent
from ideator_rl.text.display import encodable

OUR_FAULTS = (BucketError, ImplementerUnavailable, BudgetSpent, RunStopped, OutdatedBase)
log = logging.getLogger(__name__)


@config_dataclass(frozen=True)
class ExecutorConfig(ExperimentSettings):
    """Where and how experiments are run."""

    environment: str
    """A name, or the path of its folder."""
    preset: str
    """One of the environment's."""
    bucket: str
    """URL of the bucket."""
    seed: Integer = 0
    """Seed of the experiments."""
    backend_config: str = ""
    """Settings of the backend, as JSON; empty for its defaults."""
    cascade: str = ""
    """The cheaper preset that ideas must pass first, as JSON; empty for none."""
    coder: str = ""
    """Settings of the implementer, as JSON: text, so that a configuration can be a key and a dataset's column."""
    run_dir: str | None = None
    """Folder of the run's journal and ledger; None for the user's cache and no ledger file."""
    outage_patience: PlainAmount = 3600.0
    """Seconds.  Experiments that wait for a bucket through a longer outage are lost."""

    @property
    def ledger_path(self) -> Path | None:
        return Path(self.run_dir) / "ledger.json" if self.run_dir else None


class Executor:
    """Runs ideas for one configuration.  Several event loops may call its methods."""

    def __init__(self, config: ExecutorConfig):
        self.config = config
        self.environment: Environment = load_environment(config.environment).at(config.preset)
        self.preset = self.environment.preset(config.preset)
        self.bucket: Bucket = open_bucket(config.bucket)
        record_store.upgrade(self.bucket)
        caps = Caps(config.max_usd, config.max_coder_tokens, config.max_gpu_hours)
        self.ledger = Ledger(caps, config.ledger_path)
        self.losses = Losses(config.max_losses_in_a_row)
        settings = parse_json(config.coder, "The coder's settings", IdeatorError) if config.coder else None
        self.implementer: Implementer = get_implementer(config.implementer, settings, self.ledger)
        self.sandbox = choose_sandbox(config.isolation, self.implementer.trusted)
        # Prepared here, once: workers that start together would all wait for it.
        self.environment.data(config.preset)
        self._retry = Retry(self.bucket.url, config.outage_patience, self.bucket.remote)
        self._codebases = Codebases(self.environment, self.preset, self.implementer, self.bucket, self._retry)
        self.base = self._codebases.base
        self._digest = self.environment.digest(config.preset)
        self._rule: RewardRule = reward_rule(self.environment, config.preset, config.reward_transform)
        self._hardware = hardware_class(self.preset.resources.gpus, config.hardware)
        # All that can be refused is refused here, before the first idea is paid for.
        if self.bucket.remote:
            self.preset.refuse_network(self.bucket.url)
        self.backend: Backend = self._create_backend()
        self.backend.refuse_if_too_large(self.preset.resources)
        self.backend.refuse_other_hardware(config.hardware, self.preset.resources)
        bare_sandbox = self.sandbox
        run_at_once = self.backend.runner(self.environment, self.preset)
        if run_at_once is not None:
            self.sandbox = IN_PROCESS
        elif self.backend.starts and self.environment.scorer:
            # Scorers will run on this machine: made here, once, what they read, or found out why they read the disk.
            self.sandbox = with_image(self.sandbox, self.environment.preload)
        # By name where it can be loaded by it, since a worker on another machine has other folders.
        has_name = config.environment == self.environment.name
        origin = Origin(self.environment.name if has_name else str(self.environment.root), config.seed)
        isolation = self.sandbox.isolation
        self._stage = Stage(
            self.environment, self.preset, self._digest, self._rule, self._hardware, isolation, run_at_once, origin
        )
        self._cascade = open_cascade(config.cascade, self._stage, config, self.backend, bare_sandbox)
        if self._cascade is not None and self.bucket.remote:
            self._cascade.stage.preset.refuse_network(self.bucket.url)
        self.backend.start = config.start
        self.debug_rounds = debug_rounds(self.implementer, self.environment)
        # Set by the caller that owns the run: it enters the crashed experiments, and may have no room for another one.
        self.on_debugged: Callable[[Experiment], None] = lambda record: None
        self.may_debug: Callable[[Experiment], bool] = lambda record: True
        self.scheduler = Scheduler(self.bucket, self.backend, retry=self._retry, isolation=config.isolation)

    def _create_backend(self) -> Backend:
        config, text = self.config, self.config.backend_config
        settings = parse_json(text, "The backend's settings", IdeatorError) if text else None
        # A class that was written before backends had settings takes three arguments.
        return backend_class(config.backend).create(
            self.bucket, config.slots, config.isolation, *([settings] if settings else ())
        )

    def close(self) -> None:
        """Release what serves to start experiments; those that run go on."""
        self.scheduler.close()
        self.backend.close()

    async def probe(self) -> None:
        """Have the implementer ask its service for as little as possible; to be called before anything is paid.

        Raises:
            IdeatorError: the service would not answer.
        """
        await probe(self.implementer)

    async def has_answers(self, completions: Iterable[str]) -> bool:
        """Whether the bucket holds the implementer's answers for the ideas in all completions, so that none is asked.

        Raises:
            BucketError: the bucket cannot be read.
        """
        if self.debug_rounds:
            return False  # which of them crash is not known yet
        for completion in completions:
            with suppress(MalformedIdea):  # it is not sent to the implementer
                if not await self._codebases.has_answer(parse_idea(encodable(completion))):
                    return False
        return True

    @cached_property
    def previews(self) -> bool:
        """Whether `preview` may be called: the implementer asks no model, so that a patch costs no money."""
        config = self.config
        settings = parse_json(config.coder, "The coder's settings", IdeatorError) if config.coder else None
        # A plugin need not estimate its costs: one that does not, and whose code a model may write, is taken for paid.
        is_free = config.implementer in BUILT_IN or writes_trusted_code(config.implementer)
        return is_free and estimate_cost(config.implementer, settings, 1, self.environment, config.preset) is None

    async def preview(self, idea: Idea, base: Base | None = None) -> Codebase | NoCodebase:
        """The codebase of an idea, or why it has none; nothing is run or stored."""
        return await self._codebases.preview(idea, base)

    def patch_from(self, base: Base, record: Experiment) -> str:
        """The patch from the codebase that an idea was written against to the idea's; empty where it has none."""
        return self._codebases.patch_from(base, record.patch) if record.tree else ""

    async def execute(self, completion: str, replicate: int = 0, base: Base | None = None) -> Experiment:
        """Run the idea in a completion; any outcome is a record.

        Args:
            base: the codebase that the idea was written against; None for the baseline.
        """
        record = await self._execute(completion, replicate, base)
        if record.status not in (LOST, MALFORMED):
            self.losses.reset()
        return record

    async def _execute(self, completion: str, replicate: int, base: Base | None) -> Experiment:
        created = time.time()
        # Half a surrogate pair, which a tokenizer may give, has no bytes and could not be stored.
        completion = encodable(completion)
        try:
            idea = parse_idea(completion)
        except MalformedIdea as error:
            return await self._failure(NoCodebase(MALFORMED, str(error), "", {}), completion, created)
        try:
            self.losses.refuse()
            codebase = await self._codebases.of_idea(idea, base)
            if isinstance(codebase, NoCodebase):
                return await self._failure(codebase, idea.text, created, base)
            record = await self._run_idea(codebase, created, replicate, base)
            return await self._debug(idea, base, codebase, record, replicate) if self.debug_rounds else record
        except OUR_FAULTS as error:
            return self._lost(idea.text, created, error)
        except IdeatorError:
            raise  # a fault of the run, not of this idea
        except Exception as error:
            log.exception("An idea was lost by a failure of ours.")
            return self._lost(idea.text, created, IdeatorError(f"It was lost by a failure of ours: {error!r}"))

    async def _debug(
        self, idea: Idea, base: Base | None, codebase: Codebase, record: Experiment, replicate: int
    ) -> Experiment:
        """The record of the last run, after the implementer was given each crash to mend.

        The answers and the records are in the bucket, so that a resumed run comes to the same last record.
        """
        for _ in range(self.debug_rounds):
            words = feedback_of(record, FEEDBACK_TEXT) if record.status == FAILED else ""
            if not words or not self.may_debug(record):
                return record
            started = time.time()
            try:
                mended = await self._codebases.mended(idea, base, codebase, words)
            except OUR_FAULTS as error:
                return self._lost(idea.text, started, error, cost=record.cost)
            if isinstance(mended, NoCodebase) or mended.tree_hash == codebase.tree_hash:
                # No other codebase came of it: the failure stays, and so does what was paid.
                return replace(record, cost=total_cost(record.cost, mended.cost))
            self.on_debugged(replace(record, debugged=True))
            codebase, record = mended, await self._run_idea(mended, started, replicate, base)
        return record

    async def execute_patch(self, patch: str, replicate: int = 0) -> Experiment:
        """Run a patch that a person wrote: it goes the same way as an implementer's.

        Raises:
            SandboxError: no sandbox works here and `isolation` is not `none`.
        """
        choose_sandbox(self.config.isolation, trusted=False)
        created, patch = time.time(), encodable(patch)
        try:
            codebase = self._codebases.of_patch(patch, "", "diff", trusted=False)
        except PatchError as error:
            failure = NoCodebase(error.kind, head_of_refused(str(error)), head_of_refused(patch), {})
            return await self._failure(failure, "", created)
        return await self._run(codebase, created, replicate)

    async def baseline(self, replicate: int = 0) -> Experiment:
        """Run the unchanged baseline."""
        return await self._run(self._codebases.baseline(), time.time(), replicate)

    async def rerun(self, id: str, replicate: int) -> Experiment:
        """Run the codebase of an experiment in the bucket under another replicate's seed.

        Raises:
            IdeatorError: the bucket does not hold the experiment or its codebase.
            SandboxError: the library did not write its code, and no sandbox works here.
        """
        spec = await self._retry.call(lambda: record_store.Spec.load(self.bucket, id))
        tree = await self._retry.call(lambda: record_store.load_tree(self.bucket, spec.tree)) if spec else None
        if spec is None or tree is None:
            raise IdeatorError(f"The bucket {self.bucket.url} does not hold the codebase of the experiment {id}.")
        choose_sandbox(self.config.isolation, spec.trusted)
        codebase = Codebase(tree, tree_hash(tree), spec.patch, spec.idea, spec.implementer, spec.trusted)
        return await self._run(codebase, time.time(), replicate)

    async def _run_idea(self, codebase: Codebase, created: float, replicate: int, base: Base | None) -> Experiment:
        """Run an idea's codebase: with a cascade at the cheaper preset, and then only if it passes at the run's own."""
        cascade = self._cascade
        if cascade is None:
            return await self._run(codebase, created, replicate)
        refused = self._new_record(NOT_PROMOTED, codebase.idea, created, base)
        refused.patch, refused.reward, refused.cost = codebase.patch, self._rule.failure, codebase.cost
        try:
            cheap_codebase = cascade.codebase(codebase)
        except PatchError as error:
            return unfit_patch(error, refused, cascade.config.preset)
        cheap = await self._run(cheap_codebase, created, replicate, cascade.stage)
        if cheap.status == LOST:
            # Under the idea's id: which experiment it would have become is not known.
            return replace(cheap, id=refused.id, preset=self.preset.name, tree="", patch="")
        if not cascade.passes(cheap):
            return cascade.not_promoted(refused, cheap, self._stage.id(codebase, replicate))
        record = await self._run(codebase, created, replicate)
        return record if record.status == LOST else cascade.promoted(record, cheap)

    async def _run(self, codebase: Codebase, created: float, replicate: int, stage: Stage | None = None) -> Experiment:
        """Run at a preset, by default the run's own."""
        stage = stage or self._stage
        id = stage.id(codebase, replicate)
        try:
            record = await self._retry.call(lambda: record_store.load_record(self.bucket, id))
            if record is not None:
                record.replayed = True
                if gpus := stage.preset.resources.gpus:
                    # Of an experiment that went on while no process of this run waited for it.
                    self.ledger.settle_experiment(id, record.gpu_hours(gpus))
            else:
                spec = stage.spec(codebase, created, replicate)
                # A runner goes first, so that what it refuses leaves no codebase in the bucket that waits to be run.
                record = stage.run_at_once(spec, codebase.tree) if stage.run_at_once is not None else None
                await self._retry.call(lambda: record_store.save_tree(self.bucket, codebase.tree_hash, codebase.tree))
                if record is None:
                    record = await self._schedule(spec, stage)
                else:
                    await self._retry.call(lambda: spec.save(self.bucket))
                    await self._save(record)
            stage.refuse_weaker(record, self.bucket.url)
        except (Lost, BucketError, BudgetSpent) as error:
            fields = dict(id=id, tree=codebase.tree_hash, patch=codebase.patch, cost=codebase.cost)
            return self._lost(codebase.idea, created, error, **fields)
        # A copy: callers that wait for one experiment share its record, and each has paid for an idea of its own.
        return replace(record, reward=stage.rule.reward(record), cost=codebase.cost)

    async def _schedule(self, spec: record_store.Spec, stage: Stage) -> Experiment:
        """The record of an experiment, its GPU-hours booked once, however many callers wait for it.

        Raises:
            Lost: it was given up.
            BudgetSpent: it could cost more GPU-hours than the run has left.
        """
        if not (gpus := stage.preset.resources.gpus):
            return await self._result(spec, stage)
        # Before it is in the queue, from which others may start it.
        async with self.ledger.reserve_experiment(spec.id, stage.preset.max_gpu_hours) as reservation:
            try:
                record = await self._result(spec, stage)
            except Lost as lost:
                # Another round is paid for anew.  What may still run, as in an outage, stays in the ledger under its
                # id: its real GPU-hours replace the maximum once a later process finds the record.
                if lost.ran is not None:
                    reservation.actual = reservation.most if lost.ran else Spent()
                raise
            reservation.actual = Spent(gpu_hours=record.gpu_hours(gpus))
        return record

    async def _result(self, spec: record_store.Spec, stage: Stage) -> Experiment:
        """Put an experiment into the queue, unless it waits there for another caller, and wait for its record."""
        more = dict(
            run=record_store.run_name(self.config.run_dir),
            hardware=self.config.hardware,
            least_isolation=stage.isolation,
        )
        if spec.id in self.scheduler.without_record:
            entry = record_store.queue_entry(spec, stage.preset, **more)
        else:
            entry = await self._retry.call(lambda: record_store.request_run(self.bucket, spec, stage.preset, **more))
        # Shielded: the experiment goes on for other callers, and for the bucket, when one caller is cancelled.
        return await asyncio.shield(self.scheduler.result(entry))

    async def _failure(self, failure: NoCodebase, idea: str, created: float, base: Base | None = None) -> Experiment:
        """The record of an idea without a codebase; stored, so that status and report can list it."""
        record = self._new_record(failure.status, idea or failure.patch, created, base)
        record.idea, record.patch = idea, failure.patch
        record.error = {"kind": failure.status, "message": failure.message}
        record.reward, record.cost = self._rule.failure, failure.cost
        try:
            await self._save(record)
        except BucketError as error:
            return self._lost(idea, created, error, cost=failure.cost)
        return record

    async def _save(self, record: Experiment) -> None:
        await self._retry.call(lambda: record_store.save_record(self.bucket, record, queued=False))

    def _lost(self, idea: str, created: float, error: Exception, **more: Any) -> Experiment:
        record = replace(self._new_record(LOST, idea, created), **more)
        budget_spent = isinstance(error, BudgetSpent) or isinstance(error.__cause__, BudgetSpent)
        record.error = {"kind": BUDGET if budget_spent else LOST, "message": str(error)}
        if not budget_spent and not isinstance(error, RunStopped):
            self.losses.count(error)
        return record

    def _new_record(self, status: str, idea: str, created: float, base: Base | None = None) -> Experiment:
        """The record of an idea that is not run; its id is that of the proposal, not of an experiment."""
        return self._stage.new_record(self._codebases.key(idea, base), status, idea, self.implementer.name, created)
