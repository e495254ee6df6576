"""Spread points in the unit square: random tries, of which the best is kept."""

import argparse
import time

import numpy as np

points = 12
tries = 200


def smallest_distance(candidate):
    differences = candidate[:, None] - candidate[None]
    return np.sqrt((differences**2).sum(2))[np.triu_indices(points, 1)].min()


def search(rng, deadline):
    best = rng.random((points, 2))
    for _ in range(tries):
        if time.process_time() > deadline:
            break
        candidate = rng.random((points, 2))
        if smallest_distance(candidate) > smallest_distance(best):
            best = candidate
    return best


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    args = parser.parse_args()
    # Half a second is kept back for saving and leaving.
    np.savetxt(args.out, search(np.random.default_rng(args.seed), time.process_time() + args.seconds - 0.5))


if __name__ == "__main__":
    main()
