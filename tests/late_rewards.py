"""A reward function that is late with one batch."""

import asyncio

SECONDS = 9.0


async def late(completions, trainer_state, **_):
    await asyncio.sleep(SECONDS if trainer_state.global_step == 1 else 0.0)
    return [float(len(set(text))) for text in completions]
