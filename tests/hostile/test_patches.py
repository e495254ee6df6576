"""Hostile patches through the real command line: each ends as it should, and nobody else notices.  See README.md."""

import tempfile
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from attack import cases
from campaign import Campaign, Ending

from ideator_rl.sandbox.choose import best_sandbox
from ideator_rl.sandbox.sandbox import BWRAP

pytestmark = pytest.mark.skipif(
    best_sandbox().level != BWRAP, reason=f"attacks run in a full sandbox only: {best_sandbox().reason}"
)
CASES = cases()
AT_ONCE = 3


class Front:
    """The campaign, a few attacks ahead of the test that asks: three run at once, waiting more than working."""

    def __init__(self, campaign: Campaign, names: list[str]):
        self.campaign, self._names = campaign, names
        self._pool = ThreadPoolExecutor(AT_ONCE)
        self._futures: dict[str, Future[Ending]] = {}

    def ending(self, name: str) -> Ending:
        place = self._names.index(name)
        for ahead in self._names[place : place + 2 * AT_ONCE]:
            if ahead not in self._futures:
                case = next(case for case in CASES if case.name == ahead)
                self._futures[ahead] = self._pool.submit(self.campaign.run, case)
        return self._futures[name].result()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


class Table:
    """Printed at the end: what was tried and how it ended, by class."""

    def __init__(self, campaign: Campaign):
        self._campaign = campaign

    def pytest_terminal_summary(self, terminalreporter) -> None:
        terminalreporter.section("hostile patches")
        terminalreporter.write("\n".join(table(self._campaign.endings)) + "\n")


def table(endings: list[Ending]) -> list[str]:
    lines = ["| class | patches | as expected | endings | most gained |", "|---|---|---|---|---|"]
    for kind in dict.fromkeys(case.kind for case in CASES):
        of_kind = [ending for ending in endings if ending.case.kind == kind]
        if not of_kind:
            continue
        endings_text = ", ".join(f"{status} {n}" for status, n in Counter(e.status for e in of_kind).most_common())
        most = max([e.gain for e in of_kind if e.gain is not None and e.status == "succeeded"], default=0.0)
        right = sum(not ending.faults for ending in of_kind)
        lines.append(f"| {kind} | {len(of_kind)} | {right} | {endings_text} | {most + 0.0:.4f} |")
    return lines


@pytest.fixture(scope="session")
def front(request):
    with tempfile.TemporaryDirectory(prefix="hostile-", ignore_cleanup_errors=True) as folder:
        campaign = Campaign(Path(folder))
        names = [item.callspec.params["case"].name for item in request.session.items if _is_attack(item)]
        front = Front(campaign, names)
        request.config.pluginmanager.register(Table(campaign))
        yield front
        front.close()
        campaign.close()


def _is_attack(item) -> bool:
    return getattr(item, "callspec", None) is not None and item.function is test_attack


@pytest.mark.parametrize(
    "case", [pytest.param(c, id=f"{c.kind}/{c.name}", marks=[] if c.quick else [pytest.mark.slow]) for c in CASES]
)
def test_attack(front, case):
    ending = front.ending(case.name)
    assert not ending.faults, f"{case.aim}: " + "; ".join(ending.faults)


def test_afterwards_the_machine_and_the_baseline_are_as_before(front):
    campaign = front.campaign
    for environment, before in campaign.baselines.items():
        assert campaign.execute(environment, None, bucket="afterwards").record["metric"]["value"] == before
    changed = {name for name, _ in {*campaign.fingerprint.items()} ^ {*campaign.around.fingerprint().items()}}
    assert not changed and campaign.around.disturbed() == []


def test_every_class_has_several_attacks_and_each_has_a_name_of_its_own():
    assert len(CASES) >= 50 and len({case.name for case in CASES}) == len(CASES)
    assert min(Counter(case.kind for case in CASES).values()) >= 5
