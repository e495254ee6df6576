"""What a warm-up learns from: rows of a prompt and the completion that answers it.

Three sources: made-up ideas from the environment's catalogue, a trajectory file, and the best ideas of a run or search.
A row is taken as it is or refused with its number; nothing is cut or repaired, and what is left out is counted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ideator_rl.archive.recombination import recombined_ideas
from ideator_rl.environments.environment import load_environment
from ideator_rl.errors import IdeatorError
from ideator_rl.experiment import SUCCEEDED, Experiment
from ideator_rl.ideas import END, MalformedIdea, parse_idea
from ideator_rl.storage.records import Rollout, Run, read_run
from ideator_rl.training.recipe.keys import IdeatorConfig

Row = tuple[Any, str]
"""Prompt (text, or messages for a model with a chat template) and completion."""


class WarmupDataError(IdeatorError):
    """There is nothing to learn from, or a row cannot be read."""


@dataclass
class Source:
    """Rows, and where they came from in words."""

    rows: list[Row]
    origin: str
    notes: list[str] = field(default_factory=list)
    """What was left out or stood in, for a person."""


def with_parents(rows: list[Row], config: IdeatorConfig, seed: int) -> list[Row]:
    """Rows of the catalogue as a recipe's prompts will be: a share of them, the last, gives way to recombinations.

    The share is `1 - free_prompts` where the recipe has a `prompt_strategy`, else none.

    Args:
        rows: all with one prompt, text or messages.

    Raises:
        CatalogueError: the environment has no catalogue.
    """
    count = 0 if config.prompt_strategy is None else round(len(rows) * (1 - config.free_prompts))
    if not count:
        return rows
    environment, shown = load_environment(config.env), config.prompt_parents
    made = recombined_ideas(environment, config.preset, count, seed, config.prompts, shown)
    chat = not isinstance(rows[0][0], str)
    return rows[: len(rows) - count] + [
        ([{"role": "user", "content": prompt}] if chat else prompt, answer) for prompt, answer in made
    ]


def corpus_of(rows: list[Row]) -> list[str]:
    """What a tokenizer from scratch is trained on: prompts as often as they will be read, and their answers."""
    words = [prompt if isinstance(prompt, str) else " ".join(m["content"] for m in prompt) for prompt, _ in rows]
    return words + [completion for _, completion in rows]


def from_file(file: Path, prompt: str) -> Source:
    """Read JSON lines: `completion`, or `idea` and an optional `thought`; and an optional `prompt`, text or messages.

    Other keys are not read, but for `status`: a row that has one and did not succeed teaches nothing and is left out.

    Args:
        prompt: the text for rows that have none.

    Raises:
        WarmupDataError: no such file, nothing in it, or a line that is no row.
    """
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise WarmupDataError(f"The trajectory file {file} cannot be read: {why}. Give the path of a file.") from error
    rows: list[Row] = []
    bare = failed = 0
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        body = _object(file, number, line)
        if body.get("status", SUCCEEDED) != SUCCEEDED:
            failed += 1
            continue
        bare += "prompt" not in body
        rows.append((_prompt(file, number, body.get("prompt", prompt)), _completion(file, number, body)))
    if not rows:
        raise WarmupDataError(f"The trajectory file {file} holds no row to learn from ({failed} did not succeed).")
    notes = [f"{failed} rows that did not succeed were left out"] if failed else []
    notes += [f"{bare} rows without a prompt stand under the environment's"] if bare else []
    return Source(rows, f"{len(rows)} rows of {file.name}", notes)


def from_run(folder: Path, environment: str, prompt: str, best: int, above_baseline: bool) -> Source:
    """The best ideas of a run that succeeded, distinct by resulting tree, each with its own thought and prompt.

    Args:
        environment: the name that the run's records must have.
        prompt: for ideas whose own prompt is on disk no more, which is so once their batch is trained.
        above_baseline: only ideas better than the baseline's mean.

    Raises:
        WarmupDataError: no such idea, or they were tried elsewhere.
    """
    run = read_run(folder)
    chosen = [record for record in run.ranked if not above_baseline or _beats(record, run)]
    for record in chosen[:1]:
        if record.environment != environment:
            raise WarmupDataError(
                f"The run {folder} tried its ideas in {record.environment}, and this recipe is about {environment}. "
                "Name a run of the same environment."
            )
    written = _completions(run)
    rows: list[Row] = []
    bare = 0
    for record in chosen:
        told = written.get(record.tree or record.id)
        if told is not None and len(rows) < best:
            own = _own_prompt(folder, told)
            bare += own is None
            rows.append((own if own is not None else prompt, whole_idea(told.completion)))
    if not rows:
        which = "beat the baseline" if above_baseline else "succeeded"
        raise WarmupDataError(f"No idea of the run {folder} {which}; there is nothing to learn from.")
    notes = [f"{bare} of {len(rows)} prompts are on disk no more; the environment's stands for them"] if bare else []
    return Source(rows, f"the {len(rows)} best ideas of {folder.name}", notes)


def for_model(source: Source, chat: bool, length: Callable[[Row], int], room: int | None) -> list[Row]:
    """The rows as a model takes them.

    Args:
        chat: whether it has a chat template.
        length: tokens of a row.
        room: tokens that the model can hold; None where it does not say.

    Raises:
        WarmupDataError: messages for a model without a template, or a row that is too long.
    """
    rows: list[Row] = []
    for number, (prompt, completion) in enumerate(source.rows, 1):
        if not chat and not isinstance(prompt, str):
            raise WarmupDataError(
                f"Row {number} has messages as its prompt, and the model has no chat template. Give text prompts."
            )
        row = ([{"role": "user", "content": prompt}] if chat and isinstance(prompt, str) else prompt, completion)
        if room is not None and (tokens := length(row)) > room:
            raise WarmupDataError(
                f"Row {number} has {tokens} tokens, and the model holds {room}. Leave it out: an idea that is cut "
                "teaches not to end."
            )
        rows.append(row)
    return rows


def whole_idea(completion: str) -> str:
    """A completion up to the end of its idea, in its own letters; what came after taught nobody anything.

    Raises:
        MalformedIdea: it holds none.
    """
    key, place = parse_idea(completion).key, 0
    while (place := completion.find(END, place)) >= 0:
        place += len(END)
        try:
            if parse_idea(completion[:place]).key == key:
                return completion[:place]
        except MalformedIdea:
            continue
    return completion


def _object(file: Path, number: int, line: str) -> dict[str, Any]:
    try:
        body = json.loads(line)
    except ValueError as error:
        raise WarmupDataError(f"{file}, line {number}: not JSON ({error}). Expected one object a line.") from None
    if not isinstance(body, dict):
        raise WarmupDataError(f"{file}, line {number}: a {type(body).__name__}. Expected an object.")
    return body


def _completion(file: Path, number: int, body: dict[str, Any]) -> str:
    parts = [body[key] for key in ("completion",) if key in body] or [
        body[key] for key in ("thought", "idea") if key in body and body[key] != ""
    ]
    if not all(isinstance(part, str) for part in parts) or ("completion" not in body and "idea" not in body):
        raise WarmupDataError(
            f"{file}, line {number}: expected text under `completion`, or under `idea` and `thought`."
        )
    text = " ".join(parts)
    try:
        parse_idea(text)
    except MalformedIdea as error:
        raise WarmupDataError(f"{file}, line {number}: {error}") from None
    return text


def _prompt(file: Path, number: int, prompt: Any) -> Any:
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, list) and prompt and all(_is_message(each) for each in prompt):
        return prompt
    raise WarmupDataError(
        f"{file}, line {number}: expected a prompt of text, or a list of messages with role and content."
    )


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(key), str) for key in ("role", "content"))


def _beats(record: Experiment, run: Run) -> bool:
    """Whether a record's mean is better than the baseline's; a run without a baseline has nothing to beat."""
    if run.baseline is None:
        return True
    values = run.values(record)
    gain = sum(values) / len(values) - run.baseline
    return gain > 0 if run.direction == "max" else gain < 0


def _completions(run: Run) -> dict[str, Rollout]:
    """The first completion that led to each tree, by the tree; in the order they were proposed."""
    found: dict[str, Rollout] = {}
    for row, record in _succeeded(run):
        found.setdefault(record.tree or record.id, row)
    return found


def _succeeded(run: Run) -> Iterator[tuple[Rollout, Experiment]]:
    for row in run.rollouts:
        record = run.experiments.get(row.experiment_id)
        if record is not None and row.status == SUCCEEDED and row.idea:
            yield row, record


def _own_prompt(folder: Path, row: Rollout) -> Any:
    """The prompt that a completion answered, from the journal of its batch; None once that was cleared away."""
    try:
        batch = json.loads((folder / "rollouts" / f"{row.step:06d}" / "batch.json").read_text(encoding="utf-8"))
        size = len(batch["completions"]) // len(batch["groups"])
        return batch["groups"][row.position // size]["prompt"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
