"""Place 26 circles in the unit square: centres on a grid, pushed apart, then radii that grow until they touch."""

import json
import os

import numpy as np

shift = 0.0  # of the first row of centres, in units of their distance
rounds = 40

rows = [5, 5, 6, 5, 5]
centres = np.array(
    [((column + 0.5) / count, (row + 0.5) / len(rows)) for row, count in enumerate(rows) for column in range(count)]
)
centres[: rows[0], 0] = np.clip(centres[: rows[0], 0] + shift / rows[0], 0.05, 0.95)
for _ in range(rounds):
    offsets = centres[:, None] - centres[None]
    distances = np.linalg.norm(offsets, axis=2) + np.eye(len(centres))
    centres = np.clip(centres + 2e-4 * (offsets / distances[..., None] ** 3).mean(axis=1), 0.05, 0.95)

borders = np.minimum(centres, 1 - centres).min(axis=1)
distances = np.linalg.norm(centres[:, None] - centres[None], axis=2) + 9 * np.eye(len(centres))
radii = np.zeros(len(centres))
for number in range(len(centres)):
    # Later circles may still take half of the distance; earlier ones have their radius already.
    room = np.where(np.arange(len(centres)) < number, distances[number] - radii, distances[number] / 2)
    radii[number] = max(0.0, min(borders[number], room.min()))

circles = [[float(x), float(y), float(radius) * (1 - 1e-12)] for (x, y), radius in zip(centres, radii, strict=True)]
with open(os.path.join(os.environ["IDEATOR_ARTIFACT"], "circles.json"), "w") as file:
    json.dump(circles, file)
