"""The gate before a server: slots are never lost, and starts are evenly spaced."""

import asyncio
import time

from ideator_rl.llm.gate import gate


async def take_slot(server_gate, concurrency=1):
    async with server_gate.slot(concurrency, None):
        pass


def test_a_slot_given_to_a_waiter_that_is_cancelled_in_that_moment_goes_to_the_next():
    server_gate = gate("http://race.example")

    async def race():
        async with server_gate.slot(1, None):
            waiter = asyncio.create_task(take_slot(server_gate))
            await asyncio.sleep(0)
        waiter.cancel()
        await asyncio.wait([waiter])
        await asyncio.wait_for(take_slot(server_gate), 1)

    asyncio.run(race())


def test_a_cancelled_waiter_with_a_low_limit_does_not_block_those_behind_it():
    server_gate = gate("http://limits.example")

    async def cancel_the_head():
        async with server_gate.slot(2, None):
            head = asyncio.create_task(take_slot(server_gate, 1))
            await asyncio.sleep(0)
            behind = asyncio.create_task(take_slot(server_gate, 2))
            await asyncio.sleep(0)
            head.cancel()
            await asyncio.wait_for(behind, 1)

    asyncio.run(cancel_the_head())


def test_a_waiter_whose_loop_was_closed_is_skipped():
    server_gate = gate("http://closed.example")

    async def close_a_loop_under_its_waiter():
        async with server_gate.slot(1, None):
            closed_loop = asyncio.new_event_loop()
            waiter = closed_loop.create_task(take_slot(server_gate))
            await asyncio.to_thread(closed_loop.run_until_complete, asyncio.sleep(0))
            closed_loop.close()
        await asyncio.wait_for(take_slot(server_gate), 1)
        return waiter

    assert not asyncio.run(close_a_loop_under_its_waiter()).done()


def test_starts_are_as_far_apart_as_the_rate_demands():
    starts = []

    async def start_eight():
        server_gate = gate("http://rate.example")

        async def start():
            async with server_gate.slot(100, 1200):
                starts.append(time.monotonic())

        await asyncio.gather(*(start() for _ in range(8)))

    asyncio.run(start_eight())
    assert starts[-1] - starts[0] >= 7 * 0.05 - 0.01
