"""The rows that a warm-up learns from: prompts, each with the completion that answers it.

Contract:
- Sources: ideas sampled from the environment's catalogue, a trajectory file, or the best ideas of a run or search.
- A row is used as it is or refused with its number.  Nothing is repaired, and omitted rows are counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ideator_rl.archive.bases import own_prompt
from ideator_rl.archive.recombination import recombined_ideas
from ideator_rl.config.reader import MAX_DATA_BYTES, parse_json, read_json, read_text
from ideator_rl.environments.environment import load_environment
from ideator_rl.errors import IdeatorError
from ideator_rl.experiment import SUCCEEDED, Experiment
from ideator_rl.ideas import MalformedIdea, parse_idea, spans_of_ideas
from ideator_rl.llm.prompt_form import as_messages
from ideator_rl.reward import text_of
from ideator_rl.storage.run_reader import Rollout, Run, read_run
from ideator_rl.text.display import encodable
from ideator_rl.training.recipe.keys import IdeatorConfig

Row = tuple[Any, str]
"""Prompt (text, or messages for a model with a chat template) and completion."""


class WarmupDataError(IdeatorError):
    """A source has no row to learn from, or a row cannot be read."""


@dataclass
class RowSource:
    """Rows and their origin."""

    rows: list[Row]
    origin: str
    """A phrase for people."""
    notes: list[str] = field(default_factory=list)
    """What was omitted or replaced, for people."""


def with_recombinations(rows: list[Row], config: IdeatorConfig, seed: int) -> list[Row]:
    """Replace the last rows by recombinations of past ideas, as many as the recipe's prompts will show past ideas.

    The replaced share is `1 - free_prompts` if the recipe has a `prompt_strategy`, else 0.

    Args:
        rows: all with one prompt, text or messages.

    Raises:
        CatalogueError: the environment has no catalogue.
    """
    count = 0 if config.prompt_strategy is None else round(len(rows) * (1 - config.free_prompts))
    if not count:
        return rows
    environment = load_environment(config.env)
    # Generated ideas have no code.  Their prompts show the baseline's, where those of the run show a parent's.
    own = own_prompt(environment, config.preset, config.prompts, config.inherit, config.code_tokens)
    pairs = recombined_ideas(environment, config.preset, count, seed, config.prompts, config.prompt_parents, own)
    # All rows have one form, since they have one prompt.
    is_chat = not isinstance(rows[0][0], str)
    return rows[: len(rows) - count] + [
        (as_messages(prompt) if is_chat else prompt, answer) for prompt, answer in pairs
    ]


def tokenizer_corpus(rows: list[Row]) -> list[str]:
    """Texts to train a tokenizer on: every prompt as often as it occurs, then every completion."""
    prompts = [p if isinstance(p, str) else " ".join(message["content"] for message in p) for p, _ in rows]
    return prompts + [completion for _, completion in rows]


def rows_from_file(file: Path, default_prompt: str) -> RowSource:
    """Read JSON lines: `completion`, or `idea` and an optional `thought`; and an optional `prompt`, text or messages.

    A row with a `status` other than succeeded is omitted.  Further keys are ignored.

    Args:
        default_prompt: for rows without a prompt.

    Raises:
        WarmupDataError: the file is missing or has no row, or a line is not a row.
    """
    lines = read_text(file, f"The trajectory file {file}", WarmupDataError, MAX_DATA_BYTES).split("\n")
    # One bad line refuses the file: a silent gap would change what the model learns.
    rows: list[Row] = []
    without_prompt = failed = 0
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            values = _json_object(line)
            if values.get("status", SUCCEEDED) != SUCCEEDED:
                failed += 1
                continue
            row = (_prompt(values.get("prompt", default_prompt)), _completion(values))
        except (WarmupDataError, MalformedIdea) as error:
            raise WarmupDataError(f"{file}, line {number}: {error}") from None
        without_prompt += "prompt" not in values
        rows.append(row)
    if not rows:
        raise WarmupDataError(f"The trajectory file {file} has no row to learn from ({failed} did not succeed).")
    notes = [f"{failed} rows that did not succeed were left out"] if failed else []
    notes += [f"{without_prompt} rows without a prompt get the environment's"] if without_prompt else []
    return RowSource(rows, f"{len(rows)} rows of {file.name}", notes)


def rows_from_run(folder: Path, environment: str, default_prompt: str, best: int, above_baseline: bool) -> RowSource:
    """The best successful ideas of a run, distinct by resulting tree, each with its own thought and prompt.

    Args:
        environment: the name that the run's records must have.
        default_prompt: for ideas whose own prompt was deleted, which happens once their batch is trained.
        best: rows at most.
        above_baseline: only ideas better than the baseline's mean.

    Raises:
        WarmupDataError: the run has no such idea, or is of another environment.
    """
    run = read_run(folder)
    records = [record for record in run.ranked if not above_baseline or _beats_baseline(record, run)]
    if records and records[0].environment != environment:
        raise WarmupDataError(
            f"The run {folder} tried its ideas in {records[0].environment}, and this recipe is about {environment}. "
            "Name a run of the same environment."
        )
    # Several ideas may lead to one tree: the first of them, in the order of proposal, is the row.
    rollout_by_tree: dict[str, Rollout] = {}
    for rollout in run.rollouts:
        record = run.experiments.get(rollout.experiment_id)
        if record is not None and rollout.status == SUCCEEDED and rollout.idea:
            rollout_by_tree.setdefault(record.tree or record.id, rollout)
    rollouts = [rollout_by_tree[tree] for record in records if (tree := record.tree or record.id) in rollout_by_tree]

    # A run deletes the prompts of a batch once it is trained, so most rows of a finished run lack theirs.
    rows: list[Row] = []
    without_prompt = 0
    for rollout in rollouts[:best]:
        prompt = _code_prompt(run, rollout) or _stored_prompt(folder, rollout)
        without_prompt += prompt is None
        rows.append((default_prompt if prompt is None else prompt, cut_after_idea(rollout.completion)))
    if not rows:
        verb = "beat the baseline" if above_baseline else "succeeded"
        raise WarmupDataError(f"No idea of the run {folder} {verb}; there is nothing to learn from.")
    notes = []
    if without_prompt:
        notes.append(f"{without_prompt} of {len(rows)} prompts were deleted from disk; the environment's replaces them")
    return RowSource(rows, f"the {len(rows)} best ideas of {folder.name}", notes)


def rows_for_model(source: RowSource, is_chat: bool, length: Callable[[Row], int], max_length: int | None) -> list[Row]:
    """The rows in the form that a model takes.

    Args:
        is_chat: whether the model has a chat template.
        length: returns the tokens of a row.
        max_length: tokens of the model's context; None if its config does not state them.

    Raises:
        WarmupDataError: messages for a model without a template, or a row that is too long.
    """
    rows: list[Row] = []
    for number, (prompt, completion) in enumerate(source.rows, 1):
        if not is_chat and not isinstance(prompt, str):
            raise WarmupDataError(
                f"Row {number} has messages as its prompt, and the model has no chat template. Give text prompts."
            )
        row = (as_messages(prompt) if is_chat and isinstance(prompt, str) else prompt, completion)
        if max_length is not None and (tokens := length(row)) > max_length:
            raise WarmupDataError(
                f"Row {number} has {tokens} tokens, and the model holds {max_length}. Leave it out: an idea that is "
                "cut teaches not to end."
            )
        rows.append(row)
    return rows


def cut_after_idea(completion: str) -> str:
    """A completion up to the end of its idea, unchanged.

    Raises:
        MalformedIdea: it contains no idea.
    """
    parse_idea(completion)
    _, end = spans_of_ideas(completion)[0]
    return completion[:end]


def _json_object(line: str) -> dict[str, Any]:
    values = parse_json(line, "it", WarmupDataError)
    if not isinstance(values, dict):
        raise WarmupDataError(f"a {type(values).__name__}. Expected an object.")
    return values


def _completion(values: dict[str, Any]) -> str:
    # `completion` comes first: it is all that the model wrote, and `idea` is only a part of it.
    keys = ["completion"] if "completion" in values else ["thought", "idea"]
    parts = [values[key] for key in keys if key in values and (key == "completion" or values[key] != "")]
    if not all(isinstance(part, str) for part in parts) or keys[-1] not in values:
        raise WarmupDataError("expected text under `completion`, or under `idea` and `thought`.")
    text = " ".join(parts)
    parse_idea(text)
    return text


def _prompt(prompt: Any) -> Any:
    messages = prompt if isinstance(prompt, list) else []
    is_chat = bool(messages) and all(
        isinstance(message, dict) and all(isinstance(message.get(key), str) for key in ("role", "content"))
        for message in messages
    )
    if not isinstance(prompt, str) and not is_chat:
        raise WarmupDataError("expected a prompt of text, or a list of messages with role and content.")
    return prompt


def _beats_baseline(record: Experiment, run: Run) -> bool:
    """Whether a record's mean is better than the baseline's; True in a run without a baseline."""
    if run.baseline is None:
        return True
    values = run.values(record)
    gain = sum(values) / len(values) - run.baseline
    return gain > 0 if run.direction == "max" else gain < 0


def _code_prompt(run: Run, rollout: Rollout) -> str | None:
    """The prompt of an idea about inherited code, from the journal: its edits fit the code of that prompt alone; None
    for other ideas, and where the prompt is not known."""
    inherited = run.inherited.get((rollout.step, rollout.position))
    if inherited is None or not inherited.base.tree:
        return None
    return run.prompts.get((rollout.step, rollout.rank, rollout.position))


def _stored_prompt(folder: Path, rollout: Rollout) -> Any:
    """The prompt that a completion answered, from the file of its batch; None once that was deleted."""
    try:
        batch = read_json(folder / "rollouts" / f"{rollout.step:06d}" / "batch.json")
        group_size = len(batch["completions"]) // len(batch["groups"])
        texts = [encodable(text_of(completion)) for completion in batch["completions"]]
        row = rollout.position
        # With a screen only some rows are run, and positions count these.
        if texts[row] != rollout.completion and rollout.completion in texts:
            row = texts.index(rollout.completion)
        return batch["groups"][row // group_size]["prompt"]
    except (ValueError, LookupError, TypeError, ArithmeticError):
        return None
