"""Hostile patches through the real command line: each ends as expected and disturbs no other process.  See README.md."""

import tempfile
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from attack import cases
from campaign import DETERMINISTIC, Campaign, CaseResult

from ideator_rl.sandbox.choose import best_sandbox
from ideator_rl.sandbox.sandbox import BWRAP

pytestmark = pytest.mark.skipif(
    best_sandbox().level != BWRAP, reason=f"attacks run in a full sandbox only: {best_sandbox().reason}"
)
CASES = cases()
AT_ONCE = 3


class Runner:
    """Runs attacks a few ahead of the test that needs them: three at once, since they wait more than they compute."""

    def __init__(self, campaign: Campaign, names: list[str]):
        self.campaign, self._names = campaign, names
        self._pool = ThreadPoolExecutor(AT_ONCE)
        self._futures: dict[str, Future[CaseResult]] = {}

    def result(self, name: str) -> CaseResult:
        index = self._names.index(name)
        for next_name in self._names[index : index + 2 * AT_ONCE]:
            if next_name not in self._futures:
                case = next(case for case in CASES if case.name == next_name)
                self._futures[next_name] = self._pool.submit(self.campaign.run, case)
        return self._futures[name].result()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


class Table:
    """Printed at the end: the attacks and how they ended, by class."""

    def __init__(self, campaign: Campaign):
        self._campaign = campaign

    def pytest_terminal_summary(self, terminalreporter) -> None:
        terminalreporter.section("hostile patches")
        terminalreporter.write("\n".join(table(self._campaign.results)) + "\n")


def table(results: list[CaseResult]) -> list[str]:
    lines = ["| class | patches | as expected | outcomes | most gained |", "|---|---|---|---|---|"]
    for kind in dict.fromkeys(case.kind for case in CASES):
        of_kind = [result for result in results if result.case.kind == kind]
        if not of_kind:
            continue
        outcomes = ", ".join(f"{status} {n}" for status, n in Counter(r.status for r in of_kind).most_common())
        most = max([r.gain for r in of_kind if r.gain is not None and r.status == "succeeded"], default=0.0)
        right = sum(not result.faults for result in of_kind)
        lines.append(f"| {kind} | {len(of_kind)} | {right} | {outcomes} | {most + 0.0:.4f} |")
    return lines


@pytest.fixture(scope="session")
def runner(request):
    with tempfile.TemporaryDirectory(prefix="hostile-", ignore_cleanup_errors=True) as folder:
        selected = [item.callspec.params["case"] for item in request.session.items if _is_attack(item)]
        campaign = Campaign(Path(folder), {case.environment for case in selected})
        runner = Runner(campaign, [case.name for case in selected])
        request.config.pluginmanager.register(Table(campaign))
        yield runner
        runner.close()
        campaign.close()


def _is_attack(item) -> bool:
    return getattr(item, "callspec", None) is not None and item.function is test_an_attack_ends_as_its_case_expects


@pytest.mark.parametrize(
    "case", [pytest.param(c, id=f"{c.kind}/{c.name}", marks=[] if c.quick else [pytest.mark.slow]) for c in CASES]
)
def test_an_attack_ends_as_its_case_expects(runner, case):
    result = runner.result(case.name)
    assert not result.faults, f"{case.aim}: " + "; ".join(result.faults)


def test_machine_and_baseline_are_unchanged_after_the_attacks(runner):
    campaign = runner.campaign
    for environment in DETERMINISTIC:
        record = campaign.execute(environment, None, bucket="afterwards").record
        assert record["metric"]["value"] == campaign.baselines[environment]
    changed = {name for name, _ in {*campaign.fingerprint.items()} ^ {*campaign.bystanders.fingerprint().items()}}
    assert not changed and campaign.bystanders.disturbed() == []


def test_every_class_has_several_attacks_with_distinct_names():
    assert len(CASES) >= 50 and len({case.name for case in CASES}) == len(CASES)
    assert min(Counter(case.kind for case in CASES).values()) >= 5
