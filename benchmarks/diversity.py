"""What the figures of a population cost, and how well embedders tell ideas apart.  Nothing is downloaded.

    python benchmarks/diversity.py [speed] [--ideas 10000] [--step 128]
    python benchmarks/diversity.py calibrate [--embedder auto]

`speed` makes up a run of catalogue ideas, embeds them, and times `population` on one thread.  `calibrate` makes pairs
of ideas from the catalogues of the built-in environments (the same edits in other words; other edits; some in common)
and prints, for each threshold, what it would take for one idea; then how well clusters match the edits.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from pathlib import Path

import numpy as np

from ideator_rl.diversity import measures as diversity
from ideator_rl.diversity.embedding import Embedder, description, get_embedder
from ideator_rl.diversity.population import population
from ideator_rl.environments.catalogue.catalogue import Catalogue, CatalogueError, environment_catalogue
from ideator_rl.environments.catalogue.edits import Choice
from ideator_rl.environments.environment import load_environment
from ideator_rl.experiment import Experiment
from ideator_rl.ideas import EXPERIMENT
from ideator_rl.patch import PatchError, diff, tree_hash
from ideator_rl.registry import environment_names
from ideator_rl.storage.records import Rollout, Run

EDITS = (1, 1, 1, 2, 2, 3)
"""Edits of a made-up idea, drawn from."""


class Embedded:
    """An embedder that has embedded everything before it is asked."""

    def __init__(self, embedder: Embedder, texts: list[str]):
        self.name = embedder.name
        different = list(dict.fromkeys(texts))
        self._rows = dict(zip(different, embedder.embed(different), strict=True))

    def embed(self, texts: list[str]) -> np.ndarray:
        return np.stack([self._rows[text] for text in texts])


ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def main() -> None:
    if any(os.environ.get(name) != value for name, value in ONE_THREAD.items()):  # read when numpy is loaded
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ONE_THREAD})
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", choices=("speed", "calibrate"), default="speed")
    parser.add_argument("--ideas", type=int, default=10_000)
    parser.add_argument("--step", type=int, default=128)
    parser.add_argument("--embedder", default="auto")
    args = parser.parse_args()
    embedder = get_embedder(args.embedder)
    print(f"embedder {embedder.name}")
    if args.what == "speed":
        speed(embedder, args.ideas, args.step)
    else:
        calibrate(embedder)


def speed(embedder: Embedder, ideas: int, step: int) -> None:
    run = made_up_run(ideas, step)
    texts = [description(each.idea) for each in run.rollouts]
    since = time.perf_counter()
    embedded = Embedded(embedder, texts)
    print(f"embedding {len(set(texts))} different of {ideas} descriptions: {time.perf_counter() - since:.2f} s")
    since, spent = time.perf_counter(), time.process_time()
    windows = population(run, embedded)
    took, spent = time.perf_counter() - since, time.process_time() - spent
    print(
        f"figures of {ideas} ideas in {len(windows)} windows of {step}, after embedding, one thread: {spent:.2f} s of "
        f"CPU time, {took:.2f} s by the clock (the same on a core that nothing else runs on)"
    )
    print("the goal, under 10 s, is met" if spent < 10 else "the goal, under 10 s, was MISSED")


def made_up_run(ideas: int, step: int, seed: int = 0) -> Run:
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
    found: dict[str, list[np.ndarray]] = {}
    matches: dict[float, list[float]] = {}
    for name in environment_names():
        try:
            catalogue = environment_catalogue(load_environment(name))
        except CatalogueError:
            continue
        labelled = labelled_pairs(catalogue, pairs)
        print(f"{name}: " + ", ".join(f"{len(each)} pairs of {kind}" for kind, each in labelled.items()))
        for kind, each in labelled.items():
            one, other = embedder.embed([a for a, _ in each]), embedder.embed([b for _, b in each])
            found.setdefault(kind, []).append((one * other).sum(axis=1))
        for cut, match in cluster_matches(catalogue, embedder).items():
            matches.setdefault(cut, []).append(match)
    similarity = {kind: np.concatenate(each) for kind, each in found.items()}
    print("\ncosine similarity           1 %    10 %    50 %    90 %    99 %")
    for kind, values in similarity.items():
        print(f"{kind:24s}" + "".join(f"{value:8.2f}" for value in np.quantile(values, (0.01, 0.1, 0.5, 0.9, 0.99))))
    print("\nnear-duplicate from   " + "".join(f"{kind:>24s}" for kind in similarity))
    for cut in np.arange(0.3, 0.96, 0.05):
        print(f"{cut:20.2f}  " + "".join(f"{(values >= cut).mean():24.1%}" for values in similarity.values()))
    print("\ncluster distance      adjusted Rand index against families of edits, mean over environments")
    for cut, each in sorted(matches.items()):
        print(f"{cut:20.2f}  {np.mean(each):8.3f}")


def labelled_pairs(catalogue: Catalogue, count: int, seed: int = 0) -> dict[str, list[tuple[str, str]]]:
    """Pairs of descriptions: of the same edits and values in other words; of these edits with other values; of ideas
    with some edits in common; and with none."""
    rng = random.Random(seed)
    pairs: dict[str, list[tuple[str, str]]] = {"the same": [], "other values": [], "some in common": [], "others": []}
    for _ in range(count):
        one, two = (catalogue.sample(rng, rng.choice(EDITS)) for _ in range(2))
        text = said(catalogue, one, rng)
        again = next((each for _ in range(20) if (each := said(catalogue, one, rng)) != text), None)
        if again is not None:
            pairs["the same"].append((text, again))
        moved = [Choice(each.key, other_value(catalogue, each, rng)) for each in one]
        if moved != one:
            pairs["other values"].append((text, said(catalogue, moved, rng)))
        common = {each.key for each in one} & {each.key for each in two}
        if not common:
            pairs["others"].append((text, said(catalogue, two, rng)))
        if len(one) > 1:  # half of the edits are kept, the others are new
            kept = one[: len(one) // 2]
            new = [each for each in two if each.key not in {k.key for k in one}]
            if new:
                pairs["some in common"].append((text, said(catalogue, [*kept, *new], rng)))
    return pairs


def cluster_matches(catalogue: Catalogue, embedder: Embedder, ideas: int = 400, seed: int = 1) -> dict[float, float]:
    """How well average linkage, cut at each distance, finds which single-edit ideas name the same edit."""
    rng = random.Random(seed)
    choices = [catalogue.sample(rng, 1) for _ in range(ideas)]
    vectors = embedder.embed([said(catalogue, each, rng) for each in choices])
    truth = [each[0].key for each in choices]
    return {
        float(cut): adjusted_rand(truth, diversity.cluster_labels(vectors, float(cut)))
        for cut in np.arange(0.2, 0.96, 0.05)
    }


def adjusted_rand(one: list[str], other: list[int]) -> float:
    """Hubert & Arabie 1985: agreement of two partitions over pairs, 0 by chance, 1 if equal."""
    a, b = np.unique(one, return_inverse=True)[1], np.unique(other, return_inverse=True)[1]
    table = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(table, (a, b), 1)

    def pairs(values: np.ndarray) -> float:
        return float((values * (values - 1) / 2).sum())

    rows, columns, all_ = pairs(table.sum(1)), pairs(table.sum(0)), pairs(np.array([len(one)]))
    expected = rows * columns / all_
    return (pairs(table) - expected) / ((rows + columns) / 2 - expected)


def said(catalogue: Catalogue, choices: list[Choice], rng: random.Random) -> str:
    return description(f"{EXPERIMENT} {catalogue.describe(rng.sample(choices, len(choices)), rng).experiment}")


def other_value(catalogue: Catalogue, choice: Choice, rng: random.Random) -> float | int | None:
    parameter = catalogue.edits[choice.key].parameter
    return rng.choice(parameter.sample) if parameter else None


if __name__ == "__main__":
    sys.exit(main())
