"""Ideas a second through the reward buffer when no experiment has to be started: the upper bound for testbeds.

usage: python benchmarks/in_process.py [--batch 128] [--batches 40] [--known 0.3] [--profile]

Ideas of the landscape testbed through `RewardBuffer.score`: parsed, implemented, judged, stored in a memory bucket, run
in this process, journaled (SQLite, fsynced) in a temporary folder.  `--known` is the share of ideas that were proposed
before.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import pstats
import random
import tempfile
import time

from ideator_rl.envs.landscape.landscape import KNOBS, MOST_EDITS, VALUES, spell
from ideator_rl.reward_buffer import BufferConfig, RewardBuffer


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--known", type=float, default=0.3)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = BufferConfig(
            environment="landscape",
            preset="s0",
            bucket="memory://benchmark",
            implementer="envs.landscape.implementer.TokenEdits",
            backend="in_process",
            run_dir=folder,
        )
        buffer = RewardBuffer(config)
        batches = ideas(options.batches + 1, options.batch, options.known)
        profile = cProfile.Profile()
        spent = time.process_time()
        seconds = asyncio.run(scored(buffer, batches, profile if options.profile else None))
        spent = time.process_time() - spent
        buffer.close()
    seconds.sort()
    total = options.batches * options.batch
    rate = total / sum(seconds)
    middle = seconds[len(seconds) // 2]
    print(f"{total} ideas in batches of {options.batch}: {rate:.0f} ideas/s; a batch {1000 * middle:.1f} ms (median)")
    print(f"on a core of its own: {total / spent:.0f} ideas a CPU second")
    if options.profile:
        pstats.Stats(profile).sort_stats("tottime").print_stats(30)


async def scored(buffer: RewardBuffer, batches: list[list[str]], profile: cProfile.Profile | None) -> list[float]:
    """Seconds of each batch but the first, which warms up."""
    out = []
    for number, batch in enumerate(batches):
        if number == 1 and profile is not None:
            profile.enable()
        began = time.perf_counter()
        await buffer.score(batch)
        out.append(time.perf_counter() - began)
    if profile is not None:
        profile.disable()
    return out[1:]


def ideas(batches: int, size: int, repeated: float) -> list[list[str]]:
    rng = random.Random(0)
    earlier: list[str] = []
    out = []
    for _ in range(batches):
        batch = [rng.choice(earlier) if earlier and rng.random() < repeated else idea(rng) for _ in range(size)]
        earlier += batch
        out.append(batch)
    return out


def idea(rng: random.Random) -> str:
    knobs = sorted(rng.sample(range(KNOBS), rng.randint(1, MOST_EDITS)))
    edits = spell((knob, rng.randrange(VALUES)) for knob in knobs)
    return f"hm </think> [Experiment] {edits} [Code Changes] apply [End]"


if __name__ == "__main__":
    main()
