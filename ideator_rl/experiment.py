"""An experiment: idea × environment × preset × seed × replicate, with its one record from proposed to scored.

An experiment is named by its content.  Equal resulting tree, environment digest, preset, hardware class, seed and
replicate give the same id, so that nothing is run twice.  A failure is a status, never a magic number.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import re
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from ideator_rl.config.reader import parse_json

SCHEMA = 1

SUCCEEDED = "succeeded"
MALFORMED = "malformed"
"""No idea in the text."""
UNPATCHABLE = "unpatchable"
"""No patch could be made or applied."""
REJECTED = "rejected"
"""The patched codebase broke a rule of the environment."""
FAILED = "failed"
"""The experiment crashed or left no artifact."""
TIMED_OUT = "timed_out"
"""Over its budget."""
INVALID = "invalid"
"""Scored, but implausible or caught cheating."""
NOT_PROMOTED = "not_promoted"
"""It ran at the cheaper preset of a cascade and did not pass: no experiment of the run's own preset."""
LOST = "lost"
"""Our fault, not the idea's: a node died, the bucket was down, attempts ran out.  No reward; never zero."""
BUDGET = "budget"
"""Kind of the error of an experiment that is lost because the run's budget is spent."""
NEAR_DUPLICATE = "near_duplicate"
"""Kind of the error of an idea that a search did not run, since an earlier one means the same."""
RUNNING = "running"

OWN_FAILURES = (MALFORMED, UNPATCHABLE, REJECTED, FAILED, TIMED_OUT, INVALID, NOT_PROMOTED)
"""Outcomes that are the idea's own fault and earn the environment's failure reward."""
FINAL = (SUCCEEDED, *OWN_FAILURES)
"""Outcomes that will not change if the experiment is asked for again."""

MEASURED, REPORTED = "measured", "reported"
"""Where a metric comes from: trusted code, or code that runs together with the idea's."""
BASELINE = "baseline"
"""The implementer in the records of the unchanged baseline: no idea led to them."""
RERUN_REPLICATE = 100
"""Replicates from this number on are re-runs of chosen ideas; training and `execute --replicates` stay below."""
FINAL_REPLICATE = 1000
"""Replicates from this number on are measured on the hidden split `final`, for the leaderboard."""


@dataclass
class Experiment:
    """The record of one experiment, as stored in the bucket and printed by `execute --json`."""

    id: str
    status: str
    idea: str
    environment: str
    preset: str
    seed: int = 0
    replicate: int = 0
    metric: dict[str, Any] | None = None
    """`{"name", "value", "direction"}`, and `"source": "reported"` where no trusted code measured it; only for
    `succeeded` and `invalid`.  A result that a second run confirmed has
    the worse of the two as its value, and both as `first` and `second`."""
    secondary: dict[str, float] = field(default_factory=dict)
    """Further numbers that the evaluator returned, by name, of the run whose value is the metric."""
    text: str = ""
    """What the evaluator returned in words, or why it could not measure: untrusted where it repeats an artifact."""
    reward: float | None = None
    """What the learner gets; None when the outcome is `lost`.  In the bucket, only failures have one: each learner
    computes the reward of a success by its own rule."""
    error: dict[str, str] | None = None
    """`{"kind", "message"}` for every status but `succeeded`."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall seconds by phase: implement, queue, cascade (at its cheaper preset), run, score; `cpu` and `startup` are CPU
    seconds of the run.  `gpu`, where it has any: its runs on each of its GPUs added up, those that confirm it and those
    that were repeated included; in old records, the first run alone."""
    patch: str = ""
    log: str = ""
    """The end of the experiment's output: untrusted text."""
    isolation: str = ""
    start: str = ""
    """`forked` or `cold`: how Python was started for the run.  Equal within noise, and no part of the id."""
    implementer: str = ""
    tree: str = ""
    """SHA-256 of the patched codebase; empty when there is none."""
    attempt: int = 0
    created: float = 0.0
    """Unix seconds, when the idea was proposed."""
    finished: float = 0.0
    cost: dict[str, float] = field(default_factory=dict)
    """What the coder was paid for this idea: usd, prompt_tokens, completion_tokens, calls.  In a journal, for all of
    the run's ideas that led to this experiment."""
    scoring: dict[str, Any] = field(default_factory=dict)
    """Facts of the measurement that the evaluator notes, such as tokens scored and bytes transferred."""
    cascade: dict[str, Any] = field(default_factory=dict)
    """Of a run with a cascade, the experiment at the cheaper preset: `preset`, `keep_above`, `id`, `status`, `metric`
    and `reward`."""
    hashes: dict[str, str] = field(default_factory=dict)
    hardware: str = ""
    debugged: bool = False
    """It crashed, and its implementer was given its traceback to mend it: the next run is another experiment.  Of this
    caller, so never in the bucket."""
    replayed: bool = False
    """The record was already in the bucket, and cost nothing this time."""
    schema: int = SCHEMA

    @property
    def is_baseline(self) -> bool:
        return self.implementer == BASELINE

    @property
    def error_kind(self) -> str:
        """Empty for a record without an error."""
        return (self.error or {}).get("kind", "")

    def gpu_hours(self, gpus: int) -> float:
        """GPU-hours of all its runs; for a record that does not name them, of one run on so many GPUs."""
        return self.seconds.get("gpu", gpus * self.seconds.get("run", 0.0)) / 3600

    def to_json(self) -> str:
        """JSON for programs, which has no NaN and no Infinity: null in their place."""
        # Fields that are newer than records in use are left out where they are empty.
        body = {key: value for key, value in vars(self).items() if value or key not in _NEWER}
        try:
            return json.dumps(body, sort_keys=True, allow_nan=False)
        except ValueError:
            finite = json.loads(json.dumps(body), parse_constant=lambda name: None)
            return json.dumps(finite, sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> Experiment:
        """Read a record; keys of a later schema are ignored.

        Raises:
            ValueError: not a JSON object of an experiment.
        """
        raw = parse_json(text, "it", finite=False)
        if not isinstance(raw, dict) or "id" not in raw or "status" not in raw:
            raise ValueError("not an experiment record: expected a JSON object with id and status")
        return cls(**typed_fields(cls, raw))

    def check(self) -> None:
        """
        Raises:
            ValueError: it is no record that a run writes: an unknown status, or a number that is none or not finite.
        """
        if self.status not in (*FINAL, LOST, RUNNING):
            raise ValueError(f"a record has no status {self.status[:64]!r}")
        if self.metric is not None:
            require_finite([self.metric["value"]])
            if not isinstance(self.metric["name"], str) or self.metric["direction"] not in ("min", "max"):
                raise ValueError("its metric has no name and direction")
        elif self.status == SUCCEEDED:
            raise ValueError("it succeeded and has no metric")
        if self.error is not None and not all(isinstance(value, str) for value in self.error.values()):
            raise ValueError("its error holds something other than text")
        numbers = [*self.seconds.values(), *self.cost.values(), *self.secondary.values(), self.created, self.finished]
        require_finite(numbers + ([] if self.reward is None else [self.reward]))


_NEWER = ("secondary", "text", "debugged", "cascade")


def metric_label(metric: dict[str, Any]) -> str:
    """The name of a record's metric for people, marked where it is reported: runs of both kinds stay apart."""
    return f"{metric['name']} ({REPORTED})" if metric.get("source") == REPORTED else str(metric["name"])


def total_cost(cost: dict[str, float], more: dict[str, float]) -> dict[str, float]:
    """The sum of what a coder was paid twice, by key."""
    return {key: cost.get(key, 0.0) + more.get(key, 0.0) for key in cost | more}


def require_finite(numbers: Iterable[Any]) -> None:
    """Raises: ValueError for anything but finite numbers."""
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            raise ValueError(f"{str(number)[:60]!r} is no finite number")


def typed_fields(cls: Any, raw: dict[str, Any]) -> dict[str, Any]:
    """The values of a dataclass's fields in a JSON object, each of its field's type; other keys are left out.

    Raises:
        ValueError: one is of another type, or a required one is missing.
    """
    values = {}
    for item in fields(cls):
        if item.name not in raw:
            if item.default is MISSING and item.default_factory is MISSING:
                raise ValueError(f"it has no {item.name!r}")
            continue
        value, kind = raw[item.name], str(item.type)
        # Anything else is a dataclass, which is an object in JSON.
        expected = _JSON_TYPES.get(kind.partition("[")[0].partition(" ")[0], dict)
        # JSON writes a whole number without a point, and Python counts True as a number.
        right = isinstance(value, expected) and isinstance(value, bool) == (expected is bool)
        if not right and not (value is None and kind.endswith("| None")):
            raise ValueError(f"{item.name!r} is {str(value)[:60]!r}; expected {kind}")
        values[item.name] = value
    return values


_JSON_TYPES: dict[str, Any] = {"str": str, "int": int, "float": (int, float), "bool": bool}


def experiment_id(tree: str, digest: str, preset: str, hardware: str, seed: int, replicate: int) -> str:
    """The content address of an experiment with a codebase: 32 hex characters."""
    return _address("experiment", tree, digest, preset, hardware, str(seed), str(replicate))


def proposal_id(idea: str, implementer: str, digest: str, preset: str) -> str:
    """The address of an idea that never became a codebase, and of the implementer's answer to an idea."""
    return _address("proposal", idea, implementer, digest, preset)


def cascade_id(experiment: str, cheap: str, keep_above: float) -> str:
    """The address of an idea that did not pass: of both experiments' ids, and the reward that passes."""
    return _address("cascade", experiment, cheap, f"{keep_above:.17g}")


def _address(*parts: str) -> str:
    body = json.dumps(parts, ensure_ascii=True)
    return hashlib.sha256(body.encode()).hexdigest()[:32]


def hardware_class(gpus: int, declared: str = "") -> str:
    """The kind of machine that a budget in seconds is spent on; results of different classes are never mixed.

    Args:
        declared: the model that workers check; empty for the architecture of this machine.
    """
    model = "-".join(hardware_words(declared)) or platform.machine()
    return f"cpu-{model}" if gpus == 0 else f"gpu-{model}"


def hardware_words(name: str) -> list[str]:
    """The words of a model's name, in lower case: `a100`, `sxm4`, `80gb`."""
    return re.findall(r"[a-z0-9.]+", name.lower())


HARDWARE = "words of a model's name, such as h100 or a100 80gb"


def is_hardware(text: str) -> bool:
    """Whether a text can declare a model of machines; the empty one declares none."""
    return re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9._ -]{0,63})?", text) is not None
