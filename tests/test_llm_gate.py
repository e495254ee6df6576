"""Who may ask a server next: turns are never lost, and starts are evenly spaced."""

import asyncio
import time

from ideator_rl.llm.gate import gate


def test_a_turn_given_to_one_who_is_cancelled_in_that_moment_goes_to_the_next():
    before = gate("http://race.example")

    async def once():
        async with before.turn(1, None):
            pass

    async def race():
        async with before.turn(1, None):
            waiter = asyncio.create_task(once())
            await asyncio.sleep(0)
        waiter.cancel()
        await asyncio.wait([waiter])
        await asyncio.wait_for(once(), 1)

    asyncio.run(race())


def test_one_who_waits_on_a_loop_that_was_closed_is_passed_over():
    before = gate("http://closed.example")

    async def once():
        async with before.turn(1, None):
            pass

    async def over():
        async with before.turn(1, None):
            other = asyncio.new_event_loop()
            waiter = other.create_task(once())
            await asyncio.to_thread(other.run_until_complete, asyncio.sleep(0))
            other.close()
        await asyncio.wait_for(once(), 1)
        return waiter

    assert not asyncio.run(over()).done()


def test_starts_are_as_far_apart_as_the_rate_says():
    starts = []

    async def many():
        before = gate("http://rate.example")

        async def once():
            async with before.turn(100, 1200):
                starts.append(time.monotonic())

        await asyncio.gather(*(once() for _ in range(8)))

    asyncio.run(many())
    assert starts[-1] - starts[0] >= 7 * 0.05 - 0.01
