"""The base of the configuration classes: what it accepts, and the sentences about what it refuses."""

from dataclasses import dataclass as plain_dataclass
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from ideator_rl.config.base import (
    Amount,
    Config,
    ConfigError,
    Count,
    Expected,
    Flag,
    Fraction,
    Names,
    PlainNumber,
    check_options,
    expected,
    read_config,
)
from ideator_rl.config.suggest import did_you_mean


@dataclass(frozen=True)
class Inner(Config):
    seconds: Amount
    """Seconds."""
    clock: Literal["cpu", "wall"] = "cpu"


@dataclass(frozen=True)
class Sample(Config):
    inner: Inner
    count: Count | None = 1
    share: Fraction = 0.5
    number: PlainNumber = 0
    flag: Flag = False
    names: Names = Field(default_factory=list)
    by_name: dict[str, Inner] = Field(default_factory=dict)
    weights: str | dict[str, Amount] = "all"
    even: Annotated[int, Expected("an even number", lambda value: value % 2 == 0)] = 0

    @model_validator(mode="after")
    def _check(self):
        if self.count == 13:
            raise ValueError("count: 13. Choose another.")
        return self


def refusal(**values):
    with pytest.raises(ConfigError) as caught:
        read_config(Sample, {"inner": {"seconds": 1}, **values}, "It has")
    return str(caught.value)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"cuont": 2}, "It has the unknown key 'cuont'. Did you mean 'count'?"),
        ({"inner": {"secnds": 2}}, "It has the unknown key 'inner.secnds'. Did you mean 'seconds'?"),
        ({"inner": {}}, "It has no 'inner.seconds'. Expected a number of at least 0."),
        ({"inner": 3}, "It has inner: 3. Expected a mapping."),
        ({"inner": {"seconds": "3"}}, "It has inner.seconds: '3'. Expected a number of at least 0."),
        ({"inner": {"seconds": float("nan")}}, "It has inner.seconds: nan. Expected a finite number of at least 0."),
        ({"by_name": {"a": {"seconds": -1}}}, "It has by_name.a.seconds: -1. Expected a number of at least 0."),
        ({"by_name": {"a": {"seconds": 1, "clock": "sun"}}}, "It has by_name.a.clock: 'sun'. Expected cpu or wall."),
        ({"count": 0}, "It has count: 0. Expected a whole number of at least 1 or null."),
        ({"count": True}, "It has count: True. Expected a whole number of at least 1 or null."),
        ({"count": "2"}, "It has count: '2'. Expected a whole number of at least 1 or null."),
        ({"count": 13}, "It has count: 13. Choose another."),
        ({"share": 2}, "It has share: 2. Expected a number from 0 to 1."),
        ({"number": True}, "It has number: True. Expected a number."),
        ({"flag": 1}, "It has flag: 1. Expected true or false."),
        ({"names": ["a", 3]}, "It has names[1]: 3. Expected text."),
        ({"weights": {"a": -1}}, "It has weights.a: -1. Expected a number of at least 0."),
        ({"weights": 3}, "It has weights: 3. Expected text or a mapping."),
        ({"even": 3}, "It has even: 3. Expected an even number."),
        ({"even": "x"}, "It has even: 'x'. Expected an even number."),
    ],
)
def test_a_wrong_value_gives_one_sentence_with_its_path_and_what_was_expected(values, sentence):
    assert refusal(**values) == sentence


def test_an_unknown_key_is_reported_before_the_missing_key_that_it_explains():
    assert "Did you mean 'seconds'" in refusal(inner={"second": 1})


def test_an_unknown_key_similar_to_none_ends_with_the_hint_or_with_all_keys():
    assert "Known: inner, count, share" in refusal(zzz=1)
    with pytest.raises(ConfigError, match="'zzz'. See the page.$"):
        read_config(Sample, {"zzz": 1}, "It has", unknown_hint="See the page.")


def test_a_whole_number_is_taken_as_a_float_and_kept_where_hashes_depend_on_it():
    sample = read_config(Sample, {"inner": {"seconds": 2}, "number": 3, "names": "one"}, "It has")
    assert repr(sample.inner.seconds) == "2.0" and repr(sample.number) == "3" and sample.names == ["one"]


def test_all_values_by_key_begin_with_those_of_the_class_itself():
    @dataclass(frozen=True)
    class Child(Inner):
        name: str = "x"

    assert list(Child(seconds=1.0).as_mapping()) == ["name", "seconds", "clock"]


def test_a_long_value_is_cut_in_the_sentence():
    assert len(refusal(count="x" * 10_000)) < 250


def test_options_are_checked_against_the_fields_of_any_dataclass():
    @plain_dataclass
    class Plugin:
        parents: int = 2
        pick: Any = None

    check_options(Plugin, {"parents": 3, "pick": object()}, "The plugin has")
    with pytest.raises(ConfigError, match="Did you mean 'parents'"):
        check_options(Plugin, {"parent": 3}, "The plugin has")
    with pytest.raises(ConfigError, match="parents: 'x'. Expected a whole number."):
        check_options(Plugin, {"parents": "x"}, "The plugin has")


def test_the_words_for_a_type_are_those_of_a_reader_of_yaml():
    assert expected(Literal["a", None]) == "a or null"
    assert expected(dict[str, int] | bool) == "a mapping or true or false"
    assert did_you_mean("x", []) == "Known: none."
