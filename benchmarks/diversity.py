"""The cost of diversity figures, and how well embedders separate ideas.  Downloads nothing.

    python benchmarks/diversity.py [speed] [--ideas 10000] [--step 128]
    python benchmarks/diversity.py calibrate [--embedder auto]

`speed` generates a run of catalogue ideas, embeds them, and times `population` on one thread.  `calibrate` makes pairs
of ideas from the catalogues of the built-in environments (the same edits in other words, other values, some common
edits, none), prints the share of pairs that each threshold takes for duplicates, and how well clusters match the edits.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from pathlib import Path

import numpy as np

from ideator_rl.diversity import measures
from ideator_rl.diversity.embedding import Embedder, description, get_embedder
from ideator_rl.diversity.population import population
from ideator_rl.environments.catalogue.catalogue import Catalogue, CatalogueError, environment_catalogue
from ideator_rl.environments.catalogue.edits import Choice
from ideator_rl.environments.environment import load_environment
from ideator_rl.experiment import Experiment
from ideator_rl.ideas import EXPERIMENT
from ideator_rl.patch import PatchError, diff, tree_hash
from ideator_rl.registry import environment_names
from ideator_rl.storage.run_reader import Rollout, Run

EDITS = (1, 1, 1, 2, 2, 3)
"""Numbers of edits that a generated idea draws from."""


class Embedded:
    """An embedder that returns vectors computed before."""

    def __init__(self, embedder: Embedder, texts: list[str]):
        self.name = embedder.name
        distinct = list(dict.fromkeys(texts))
        self._rows = dict(zip(distinct, embedder.embed(distinct), strict=True))

    def embed(self, texts: list[str]) -> np.ndarray:
        return np.stack([self._rows[text] for text in texts])


ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def main() -> None:
    if any(os.environ.get(name) != value for name, value in ONE_THREAD.items()):  # read when numpy is loaded
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ONE_THREAD})
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", nargs="?", choices=("speed", "calibrate"), default="speed")
    parser.add_argument("--ideas", type=int, default=10_000)
    parser.add_argument("--step", type=int, default=128)
    parser.add_argument("--embedder", default="auto")
    args = parser.parse_args()
    embedder = get_embedder(args.embedder)
    print(f"embedder {embedder.name}")
    if args.task == "speed":
        speed(embedder, args.ideas, args.step)
    else:
        calibrate(embedder)


def speed(embedder: Embedder, ideas: int, step: int) -> None:
    run = generated_run(ideas, step)
    texts = [description(rollout.idea) for rollout in run.rollouts]
    since = time.perf_counter()
    embedded = Embedded(embedder, texts)
    print(f"embedding {len(set(texts))} different of {ideas} descriptions: {time.perf_counter() - since:.2f} s")
    since, spent = time.perf_counter(), time.process_time()
    windows = population(run, embedded)
    took, spent = time.perf_counter() - since, time.process_time() - spent
    print(
        f"figures of {ideas} ideas in {len(windows)} windows of {step}, after embedding, one thread: {spent:.2f} s of "
        f"CPU time, {took:.2f} s of wall time (the same on an idle core)"
    )
    print("the goal, under 10 s, is met" if spent < 10 else "the goal, under 10 s, was MISSED")


def generated_run(ideas: int, step: int, seed: int = 0) -> Run:
    """A run of catalogue ideas in memory; three in four succeed, half have a thought."""
    environment = load_environment("nanogpt")
    catalogue, base, rng = environment_catalogue(environment), environment.baseline("cpu"), random.Random(seed)
    rollouts: list[Rollout] = []
    experiments: dict[str, Experiment] = {}
    while len(rollouts) < ideas:
        choices = catalogue.sample(rng, rng.choice(EDITS))
        try:
            tree = catalogue.apply(base, choices)
        except PatchError:
            continue
        idea, id = catalogue.describe(choices, rng).text, tree_hash(tree)
        status = "succeeded" if rng.random() < 0.75 else "failed"
        value = rng.gauss(2.5, 0.1) if status == "succeeded" else None
        if id not in experiments:
            patch = diff(base, tree)
            metric = {"name": "val_loss", "value": value, "direction": "min"} if value else None
            experiments[id] = Experiment(id, status, idea, "nanogpt", "cpu", metric=metric, patch=patch, tree=id)
        thought = " ".join(["think"] * rng.randrange(40)) if rng.random() < 0.5 else ""
        at = divmod(len(rollouts), step)
        rollouts.append(
            Rollout(*at, f"{thought} {idea}", thought, idea, id, status, 1 / value if value else 0.0, value)
        )
    return Run(Path("nowhere"), {"env": "nanogpt", "preset": "cpu"}, rollouts, experiments)


def calibrate(embedder: Embedder, pairs: int = 1500) -> None:
    similarities: dict[str, list[np.ndarray]] = {}
    matches: dict[float, list[float]] = {}
    for name in environment_names():
        try:
            catalogue = environment_catalogue(load_environment(name))
        except CatalogueError:
            continue
        labelled = labelled_pairs(catalogue, pairs)
        print(f"{name}: " + ", ".join(f"{len(texts)} pairs of {kind}" for kind, texts in labelled.items()))
        for kind, texts in labelled.items():
            left, right = embedder.embed([a for a, _ in texts]), embedder.embed([b for _, b in texts])
            similarities.setdefault(kind, []).append((left * right).sum(axis=1))
        for cut, match in cluster_matches(catalogue, embedder).items():
            matches.setdefault(cut, []).append(match)
    similarity = {kind: np.concatenate(values) for kind, values in similarities.items()}
    print("\ncosine similarity           1 %    10 %    50 %    90 %    99 %")
    for kind, values in similarity.items():
        print(f"{kind:24s}" + "".join(f"{value:8.2f}" for value in np.quantile(values, (0.01, 0.1, 0.5, 0.9, 0.99))))
    print("\nnear-duplicate from   " + "".join(f"{kind:>24s}" for kind in similarity))
    for cut in np.arange(0.3, 0.96, 0.05):
        print(f"{cut:20.2f}  " + "".join(f"{(values >= cut).mean():24.1%}" for values in similarity.values()))
    print("\ncluster distance      adjusted Rand index against families of edits, mean over environments")
    for cut, values in sorted(matches.items()):
        print(f"{cut:20.2f}  {np.mean(values):8.3f}")


def labelled_pairs(catalogue: Catalogue, count: int, seed: int = 0) -> dict[str, list[tuple[str, str]]]:
    """Pairs of descriptions: the same edits in other words, other values, some common edits, or none."""
    rng = random.Random(seed)
    pairs: dict[str, list[tuple[str, str]]] = {"the same": [], "other values": [], "some in common": [], "others": []}
    for _ in range(count):
        first, second = (catalogue.sample(rng, rng.choice(EDITS)) for _ in range(2))
        text = describe(catalogue, first, rng)
        paraphrase = next((t for _ in range(20) if (t := describe(catalogue, first, rng)) != text), None)
        if paraphrase is not None:
            pairs["the same"].append((text, paraphrase))
        moved = [Choice(choice.key, other_value(catalogue, choice, rng)) for choice in first]
        if moved != first:
            pairs["other values"].append((text, describe(catalogue, moved, rng)))
        keys = {choice.key for choice in first}
        if not keys & {choice.key for choice in second}:
            pairs["others"].append((text, describe(catalogue, second, rng)))
        if len(first) > 1:  # half of the edits stay, the others are new
            new = [choice for choice in second if choice.key not in keys]
            if new:
                pairs["some in common"].append((text, describe(catalogue, [*first[: len(first) // 2], *new], rng)))
    return pairs


def cluster_matches(catalogue: Catalogue, embedder: Embedder, ideas: int = 400, seed: int = 1) -> dict[float, float]:
    """The adjusted Rand index between clusters, cut at each distance, and the edits of single-edit ideas."""
    rng = random.Random(seed)
    choices = [catalogue.sample(rng, 1) for _ in range(ideas)]
    vectors = embedder.embed([describe(catalogue, edits, rng) for edits in choices])
    truth = [edits[0].key for edits in choices]
    return {
        float(cut): adjusted_rand(truth, measures.cluster_labels(vectors, float(cut)))
        for cut in np.arange(0.2, 0.96, 0.05)
    }


def adjusted_rand(truth: list[str], labels: list[int]) -> float:
    """Hubert & Arabie 1985: agreement of two partitions over pairs, 0 by chance, 1 if equal."""
    a, b = np.unique(truth, return_inverse=True)[1], np.unique(labels, return_inverse=True)[1]
    table = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(table, (a, b), 1)

    def pairs(values: np.ndarray) -> float:
        return float((values * (values - 1) / 2).sum())

    rows, columns, all_ = pairs(table.sum(1)), pairs(table.sum(0)), pairs(np.array([len(truth)]))
    expected = rows * columns / all_
    return (pairs(table) - expected) / ((rows + columns) / 2 - expected)


def describe(catalogue: Catalogue, choices: list[Choice], rng: random.Random) -> str:
    return description(f"{EXPERIMENT} {catalogue.describe(rng.sample(choices, len(choices)), rng).experiment}")


def other_value(catalogue: Catalogue, choice: Choice, rng: random.Random) -> float | int | None:
    parameter = catalogue.edits[choice.key].parameter
    return rng.choice(parameter.sample) if parameter else None


if __name__ == "__main__":
    sys.exit(main())
