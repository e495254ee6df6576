"""What an experiment asks of an object store, counted by a proxy."""

import asyncio
from collections import Counter
from dataclasses import replace

import pytest
from conftest import run
from fault_proxy import FaultProxy
from scripted import idea

from ideator_rl.executor import record_store
from ideator_rl.executor.executor import Executor

MOST_READS, MOST_WRITES = 12, 8
IDEAS = 4


@pytest.fixture
def proxy(moto_store, monkeypatch, s3_url):
    with FaultProxy(moto_store.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy


def test_an_experiment_costs_a_store_few_requests(proxy, s3_url, toy_config):
    executor = Executor(replace(toy_config, bucket=s3_url))
    proxy.reset()

    async def scenario():
        return await asyncio.gather(*(executor.execute(idea(f"Set x to {number}.0.")) for number in range(IDEAS)))

    records = run(scenario())
    assert [record.status for record in records] == ["succeeded"] * IDEAS
    for record in records:
        mine = Counter(kind for kind, key in proxy.requests if record.id in key)
        assert mine["GET"] <= MOST_READS and mine["PUT"] <= MOST_WRITES, [
            r for r in proxy.requests if record.id in r[1]
        ]
    counts = proxy.counts()
    assert counts["GET"] <= MOST_READS * IDEAS and counts["PUT"] <= MOST_WRITES * IDEAS, counts
    bucket = executor.bucket
    assert bucket.list(record_store.QUEUE) == bucket.list(record_store.BEATS) == {}
    executor.close()
