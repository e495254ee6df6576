"""What a card tells of a run: how to ask the model, what came of it, what it cost, and what not to expect.

Guarantees: every number is computed from the run's records; the value that the best idea was chosen for is never called
its mean; ideas and patches, which a model wrote, stand in code blocks that they cannot end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from ideator_rl.environments.environment import load_environment
from ideator_rl.errors import IdeatorError
from ideator_rl.experiment import RERUN_REPLICATE, SUCCEEDED, Experiment
from ideator_rl.publishing.card import environment_name, fenced, table
from ideator_rl.publishing.published import Published
from ideator_rl.storage.ledger import UNITS
from ideator_rl.storage.records import Run, Step
from ideator_rl.text import number, share, visible
from ideator_rl.training.recipe.recipe import Recipe

MOST_STEPS = 40
"""Rows of the table by step; of a longer run, steps at equal distances."""
MOST_TEXT = 6_000
"""Characters of a patch in a card."""


def how_to_ask(recipe: Recipe, chat: bool, published: Published) -> str:
    """The prompt that it was trained with, if the environment is at hand, and a call."""
    ours = recipe.ours
    try:
        prompt = published.text(load_environment(ours.env).prompt(ours.preset, ours.prompts))
        past = " Most prompts of training carried past ideas and their results too." if ours.prompt_strategy else ""
        shown = f"It was trained with this prompt.{past}\n\n{fenced(prompt)}"
    except (IdeatorError, OSError):
        shown = f"It was trained with the prompt `{ours.prompts}` of its environment, which is not at hand here.\n"
    ask = (
        'tokenizer.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True,\n'
        '                                       return_tensors="pt", return_dict=True)'
        if chat
        else 'tokenizer(prompt, return_tensors="pt")  # plain text: the model has no chat template'
    )
    call = (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        "model = AutoModelForCausalLM.from_pretrained(folder)\n"
        f"tokenizer = AutoTokenizer.from_pretrained(folder)\ninputs = {ask}\n"
        f"tokens = model.generate(**inputs, do_sample=True, temperature={recipe.grpo.get('temperature', 1.0)}, "
        f"max_new_tokens={recipe.grpo.get('max_completion_length', 256)})"
    )
    return f"## How to ask it\n\n{shown}\n{fenced(call, 'python')}\n"


def results(run: Run, pictures: Iterable[tuple[str, str]], published: Published) -> str:
    """Counts, reward and success by step, the best idea beside the baseline.  `pictures`: (file, caption)."""
    statuses = Counter(row.status for row in run.rollouts)
    counts = ", ".join(f"{count} {status}" for status, count in statuses.most_common()) or "none"
    lines = ["## What came of it", "", f"{len(run.rollouts)} ideas proposed: {counts}.", ""]
    lines += [f"![{caption}]({file})\n" for file, caption in pictures]
    lines += [_by_step(run.by_step()), "## Best idea and baseline", "", _baseline(run), _best(run), ""]
    if run.ranked:
        best = run.ranked[0]
        lines += [fenced(_untrusted(best.idea, published)), fenced(_untrusted(best.patch, published), "diff")]
    return "\n".join(lines) + "\n"


def diversity(run: Run) -> str:
    """Computed from ids and texts alone; what means the same in other words counts as different."""
    ids = Counter(row.experiment_id for row in run.rollouts if row.experiment_id)
    texts = Counter(" ".join(row.idea.casefold().split()) for row in run.rollouts if row.idea)
    if not texts:
        return "## Diversity\n\nNo completion held an idea.\n\n"
    trees = {e.tree for e in run.ran}
    lines = [
        f"- {len(ids)} distinct records (what never became a codebase included) and {len(trees)} patched codebases, of "
        f"{len(run.rollouts)} proposals",
        f"- {len(texts)} different texts of ideas (case and spaces apart); the most frequent is "
        f"{share(max(texts.values()) / sum(texts.values()))} of all ideas",
    ]
    if steps := [step for step in run.by_step() if step.proposed]:
        first, last = (f"{step.distinct} of {step.proposed} in step {step.step + 1}" for step in (steps[0], steps[-1]))
        lines.append(f"- distinct records by step: {first}, {last}; a fall warns of collapse")
    return "## Diversity\n\n" + "\n".join(lines) + "\n\n"


def cost(run: Run) -> str:
    """USD, tokens and GPU-hours from the ledger; wall clock from the stop-watch of the last process."""
    spent = [f"- {value:.6g} {UNITS.get(name, name)}" for name, value in run.spent.items()]
    seconds = sum(e.seconds.get("run", 0.0) for e in run.experiments.values())
    lines = spent or ["- no ledger: nothing is known to have been paid for"]
    lines.append(f"- {seconds:.0f} s of experiments, added up")
    if total := run.timings.get("total"):
        parts = sorted(((value, name) for name, value in run.timings.items() if name != "total"), reverse=True)
        shown = ", ".join(f"{name} {value:.0f} s" for value, name in parts if value >= 0.5)
        lines.append(f"- {total:.0f} s of wall clock in the process that ended the run ({shown})")
    return "## Cost\n\n" + "\n".join(lines) + "\n\n"


def provenance(run: Run, weights: dict[str, str], source: str, recipe_hash: str) -> str:
    """Hashes, so that what is used can be told from what was measured."""
    digests = sorted({e.hashes.get("environment", "") for e in run.experiments.values()} - {""})
    kinds = [
        *(["weights " + name, value] for name, value in weights.items()),
        *(["environment (baseline, manifest, evaluator, data, budget)", digest] for digest in digests),
        ["recipe.yaml of the run", recipe_hash],
    ]
    hardware = ", ".join(sorted({e.hardware for e in run.experiments.values()} - {""})) or "unknown"
    isolation = ", ".join(sorted({e.isolation for e in run.experiments.values()} - {""})) or "none"
    words = f"Weights: {source}. Experiments ran on {hardware}, isolation {isolation}."
    rows = [[what, f"`{value}`"] for what, value in kinds]
    return f"## Where it comes from\n\n{words}\n\n{table(['what', 'SHA-256'], rows)}\n"


def limits(run: Run, recipe: Recipe, published: Published) -> str:
    """What not to conclude."""
    seeds = sorted({e.seed for e in run.experiments.values() if e.replicate < RERUN_REPLICATE})
    lines = [
        f"- One training run, seed {recipe.seed}: another one may end elsewhere. No methods were compared.",
        f"- Trained on one environment (`{environment_name(recipe, published)}`, preset `{recipe.ours.preset}`); "
        "nothing is known of others, or of other scales of this one.",
        f"- Experiments of ideas ran with {len(seeds)} different seeds; a metric measured once carries the noise of "
        "one run, and the best of many is flattered by luck unless it was run again.",
        "- What it writes is to be run in a sandbox: it was rewarded for a metric, not for being safe.",
    ]
    if run.recipe.get("implementer", "rules") == "rules":
        lines.append("- Ideas were read against a catalogue of known edits: others were never carried out.")
    return "## Limits\n\n" + "\n".join(lines) + "\n\n"


def model_index(run: Run, name: str) -> list[dict[str, Any]]:
    """The hub's table of results: the best idea's metric, the baseline's, and the last step's success."""
    steps = [step for step in run.by_step() if step.success is not None]
    metrics = []
    if run.ranked:
        kind = "mean of re-runs" if (again := _again(run, run.ranked[0])) else "single run it was chosen for"
        value = mean(again) if again else mean(run.values(run.ranked[0]))
        metrics.append({"type": run.metric, "name": f"{run.metric} of the best idea ({kind})", "value": value})
    if run.baseline is not None:
        metrics.append({"type": run.metric, "name": f"{run.metric} of the baseline", "value": run.baseline})
    if steps:
        metrics.append({"type": "success_rate", "name": "success rate of the last step", "value": steps[-1].success})
    kinds = sorted({(e.environment, e.preset) for e in run.experiments.values()})
    if not metrics or len(kinds) != 1:
        return []
    (environment, preset) = kinds[0]
    dataset = {"type": Path(environment).name, "name": f"environment {Path(environment).name}, preset {preset}"}
    task = {"type": "text-generation", "name": "Research ideas"}
    return [{"name": name, "results": [{"task": task, "dataset": dataset, "metrics": metrics}]}]


def _by_step(steps: list[Step]) -> str:
    every = -(-len(steps) // MOST_STEPS) or 1
    chosen = [step for i, step in enumerate(steps) if i % every == 0 or step is steps[-1]]
    head = ["step", "ideas", "distinct records", "success", "mean metric", "best metric", "mean reward"]
    rows = [
        [str(s.step + 1), str(s.proposed), str(s.distinct), share(s.success), *map(number, (s.mean, s.best, s.reward))]
        for s in chosen
    ]
    note = f"Every {every}th of {len(steps)} steps. " if every > 1 else ""
    return f"{note}Metrics are of successes only.\n\n{table(head, rows)}"


def _again(run: Run, record: Experiment) -> list[float]:
    """What a record's codebase reached when it was run again, after it had been chosen."""
    others = run.experiments.values()
    same = [e for e in others if e.tree == record.tree and e.replicate >= RERUN_REPLICATE and e.status == SUCCEEDED]
    return [e.metric["value"] for e in same if e.metric]


def _baseline(run: Run) -> str:
    values = [e.metric["value"] for e in run.baselines if e.metric]
    return f"Baseline {run.metric}: {_spread(values)}.\n" if values else "No baseline was run.\n"


def _best(run: Run) -> str:
    if not run.ranked:
        return "No idea succeeded.\n"
    best = run.ranked[0]
    values, again = run.values(best), _again(run, best)
    words = f"Best idea, {run.metric} ({'lower' if run.direction == 'min' else 'higher'} is better): "
    if again:
        return words + f"{number(values[0])} when it was chosen; run again {_spread(again)}.\n"
    if len(values) > 1:
        return words + f"{_spread(values)}; all of these runs counted when it was chosen.\n"
    return words + f"{number(values[0])} in one run, seed {best.seed}, not run again: the best of many is flattered.\n"


def _spread(values: list[float]) -> str:
    if len(values) < 2:
        return f"{number(values[0])} in one run"
    error = stdev(values) / len(values) ** 0.5
    return f"{number(mean(values))} ± {error:.2g} (mean and its standard error, {len(values)} runs)"


def _untrusted(text: str, published: Published) -> str:
    cut = len(text) - MOST_TEXT
    return visible(published.text(text[:MOST_TEXT])) + (f"\n… {cut} more characters" if cut > 0 else "")
