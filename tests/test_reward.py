import pytest

from ideator_rl.environments.environment import load_environment
from ideator_rl.environments.noise import load_noise, store_noise
from ideator_rl.errors import IdeatorError
from ideator_rl.experiment import Experiment
from ideator_rl.reward import reward_rule


@pytest.fixture
def environment(toy, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return load_environment(toy)


def record(value, status="succeeded"):
    metric = None if value is None else {"name": "height", "value": value, "direction": "min"}
    return Experiment("id", status, "idea", "toy", "cpu", metric=metric)


def test_a_success_earns_the_inverse_a_failure_the_failure_reward_and_a_loss_nothing(environment):
    rule = reward_rule(environment, "cpu")
    assert rule.reward(record(4.0)) == 0.25
    assert rule.reward(record(None, "failed")) == rule.reward(record(4.0, "invalid")) == 0.0
    assert rule.reward(record(float("nan"))) == rule.reward(record(0.0)) == 0.0
    assert rule.reward(record(None, "lost")) is None


def test_over_baseline_counts_standard_deviations_of_the_baseline_and_never_less_than_a_failure(environment):
    store_noise(environment, "cpu", [9.0, 10.0, 11.0])
    rule = reward_rule(environment, "cpu", "over_baseline")
    assert [rule.reward(record(value)) for value in (7.0, 10.0, 12.0)] == [3.0, 0.0, 0.0]
    assert rule.reward(record(None, "failed")) == 0.0


def test_missing_or_zero_noise_is_an_error_with_the_command_that_measures_it(environment):
    with pytest.raises(IdeatorError, match=r"env check \S*toy_env --preset cpu --seeds 5"):
        reward_rule(environment, "cpu", "over_baseline")
    store_noise(environment, "cpu", [2.0, 2.0])
    with pytest.raises(IdeatorError, match="no spread over 2 runs"):
        reward_rule(environment, "cpu", "over_baseline")
    with pytest.raises(IdeatorError, match="'twice'; expected one of inverse"):
        reward_rule(environment, "cpu", "twice")


def test_noise_belongs_to_one_version_of_the_environment(environment, toy, tmp_path):
    store_noise(environment, "cpu", [1.0, 2.0])
    assert load_noise(environment, "cpu").mean == 1.5 and load_noise(environment, "slow") is None
