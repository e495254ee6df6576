"""The reader of all YAML and JSON that people and buckets hand in: its limits, and the words that it takes as text."""

import os
import socket
import time

import pytest
import yaml

from ideator_rl.config.reader import ReadError, parse_json, read_bytes, read_json, read_text
from ideator_rl.config.recipe_file import RecipeError
from ideator_rl.config.yaml_reader import dump_yaml, parse_yaml, read_yaml
from ideator_rl.errors import IdeatorError
from ideator_rl.registry import PluginError, UnknownName, resolve_reward
from ideator_rl.storage.bucket import BucketError, bucket_at, open_bucket
from ideator_rl.training.recipe.recipe import load_recipe

BILLION = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 10)}]\n" for n in range(9)
)
BAD_YAML = {
    "nested too deeply": ("[" * 20_000, "levels of nesting"),
    "a bomb of aliases": (BILLION, "aliases expanded"),
    "an alias inside its own value": ("a: &a [*a]", "inside its own value"),
    "a long text many times": ("a: &a '" + "y" * 50_000 + "'\nb: [" + "*a," * 500 + "]", "characters"),
    "too many digits": ("a: " + "9" * 5_000, "5000 digits"),
    "a key twice": ("a: 1\nb: 2\na: 3", "the key 'a' twice (lines 1 and 3)"),
    "a key twice, deep inside": ("a: {b: [{c: 1, c: 2}]}", "the key 'c' twice"),
    "a list as a key": ("? [1]\n: 2", "as a key"),
    "a Python object": ("a: !!python/object/apply:os.system [x]", "the tag"),
    "a tag of its own": ("a: !mine x", "the tag"),
    "NaN": ("a: .nan", "finite"),
    "infinity": ("a: -.inf", "finite"),
    "a number without end": ("a: 1e999", "finite"),
    "NUL in quotes": ('a: "x\\0"', "NUL"),
    "half a surrogate pair": ('a: "\\ud800"', "surrogate"),
    "a control character": ("a: \x01", "not readable YAML"),
    "a bracket that is not closed": ("a: 1\nb: [", "line 2"),
    "two documents": ("a: 1\n---\nb: 2", "another document"),
    "an unknown alias": ("a: *b", "undefined alias"),
    "a tab": ("a:\n\tb: 1", "line 2"),
}
BAD_JSON = {
    "nested too deeply": ("[" * 100_000, "nested too deeply"),
    "51 levels": ("[" * 52 + "]" * 52, "nested too deeply"),
    "too many digits": ("9" * 5_000, "5000 digits"),
    "a key twice": ('{"a": 1, "a": 2}', "the key 'a' twice"),
    "NaN": ('{"a": NaN}', "NaN"),
    "infinity": ('{"a": -Infinity}', "Infinity"),
    "a number without end": ('{"a": 1e999}', "too large"),
    "cut": ('{"a": ', "line 1, column"),
    "nothing": ("", "not JSON"),
}


@pytest.mark.parametrize("name", BAD_YAML)
def test_yaml_beyond_a_limit_is_one_sentence_at_once(name):
    text, message = BAD_YAML[name]
    start = time.process_time()
    with pytest.raises(ReadError) as caught:
        parse_yaml(text, "The file")
    assert message in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 400
    assert str(caught.value).startswith("The file") and time.process_time() - start < 2


@pytest.mark.parametrize("name", BAD_JSON)
def test_json_beyond_a_limit_is_one_sentence(name):
    text, message = BAD_JSON[name]
    with pytest.raises(ReadError) as caught:
        parse_json(text, "The file")
    assert message in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001), ("-.5", -0.5), ("1.", 1.0), ("1_000", 1000), ("0x1F", 31), ("007", "007"), ("12:30", "12:30"),
        ("2026-01-01", "2026-01-01"), ("no", False), ("on", True), ("null", None), ("'no'", "no"), ("1e", "1e"),
        ("=", "="), ("", None),
    ],
)  # fmt: skip
def test_a_word_is_a_number_only_where_a_reader_takes_it_for_one(text, value):
    read = parse_yaml(text, "it")
    assert read == value and type(read) is type(value)
    if value is not None:
        assert parse_yaml(dump_yaml({"key": value}), "it") == {"key": value}


def test_merged_mappings_and_words_as_keys_are_read():
    assert parse_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nno: 1\n1: 2", "it") == {
        "a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "no": 1, "1": 2}  # fmt: skip


def test_what_is_no_file_is_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(tmp_path)
        listener.bind("socket")
        os.chdir(here)
    for path in (*tmp_path.iterdir(), "/dev/zero", tmp_path / "missing", "a\0b", "x" * 5_000):
        for read in (read_bytes, read_text, read_yaml, read_json):
            with pytest.raises(ReadError, match=r"cannot be read: .*\. Give the path of a"):
                read(path)


def test_a_size_an_encoding_and_a_byte_order_mark_have_their_own_sentences(tmp_path):
    path = tmp_path / "f"
    with open(path, "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ReadError, match="bytes; at most"):
        read_yaml(path)
    for data, message in ((b"a\n\xff", "line 2"), ("a: 1".encode("utf-16"), "UTF-16")):
        path.write_bytes(data)
        with pytest.raises(ReadError, match=message):
            read_yaml(path)
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    assert read_yaml(path) == {"a": 1, "b": 2} and read_text(path) == "a: 1\nb: 2\n"


RECIPE = {"env": "nanogpt", "output_dir": "runs/x", "model_name_or_path": "some/model"}


@pytest.fixture
def recipe(tmp_path):
    def load(lines="", *overrides):
        path = tmp_path / "r.yaml"
        path.write_text(yaml.safe_dump(RECIPE) + lines)
        return load_recipe(str(path), list(overrides))

    return load


@pytest.mark.parametrize(
    ("key", "word", "value"),
    [
        ("save_strategy", "no", "no"), ("run_name", "007", "007"), ("run_name", "on", "on"), ("run_name", "1e3", "1e3"),
        ("run_name", "12:30", "12:30"), ("run_name", "2026-01-01", "2026-01-01"), ("run_name", "12", "12"),
        ("logging_strategy", "no", "no"), ("learning_rate", "1e-5", 1e-5), ("bf16", "no", False), ("bf16", "on", True),
        ("learning_rate", "'1e-5'", 1e-5), ("max_steps", "3", 3), ("run_name", "'x'", "x"),
    ],
)  # fmt: skip
def test_a_word_is_read_by_the_type_of_its_key_in_a_recipe_and_on_the_command_line(recipe, key, word, value):
    for loaded in (recipe(f"{key}: {word}\n"), recipe("", f"--{key}", word), recipe("", f"--{key}={word}")):
        assert loaded.grpo[key] == value and type(loaded.grpo[key]) is type(value)
        assert parse_yaml(loaded.text(), "it")[key] in (value, False), "the saved recipe means the same"


def test_evaluation_stays_refused_however_it_is_spelled(recipe):
    assert recipe("", "--eval_strategy", "no").grpo["eval_strategy"] == "no"
    for word in ("steps", "yes"):
        with pytest.raises(RecipeError, match="eval_strategy"):
            recipe("", "--eval_strategy", word)


def test_a_boolean_where_text_belongs_names_the_quotes(recipe):
    with pytest.raises(RecipeError, match=r"reward_funcs\[0\]: False. Expected text; in quotes it is text"):
        recipe("reward_funcs: [no]\n")


@pytest.mark.parametrize(
    ("lines", "advice"),
    [
        ("hub_token: hf_abc\n", "HF_TOKEN"),
        ("api_key: sk-abc\n", "api_key_env"),
        ("coder: {models: m, api_key: sk-abc}\n", "api_key_env"),
        ("coder: {models: m, extra_body: {x: [{access_token: abc}]}}\n", "api_key_env"),
        ("coder: {models: m, extra_body: {auth_token: abc}}\n", "api_key_env"),
        ("coder: {models: m, api_key_env: sk-proj-abc0123456789}\n", "api_key_env"),
        ("coder: {models: m, stop: [gsk_abc0123456789012345]}\n", "api_key_env"),
        ("model_init_kwargs: {token: hf_abc0123456789012345}\n", "HF_TOKEN"),
    ],
)
def test_a_secret_in_a_recipe_is_refused_without_being_shown(recipe, lines, advice):
    with pytest.raises(RecipeError, match=advice) as caught:
        recipe(lines)
    assert "abc" not in str(caught.value)
    recipe("hub_token: null\ncoder: {models: m, api_key_env: KEY, extra_headers: {api-key: '${KEY}'}}\n")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("max_steps: 1e20\n", "max_steps"), (f"seed: {'9' * 30}\n", "seed"), ("max_steps: 99999999999\n", "max_steps"),
        ("bucket: ftp://b/x\n", "scheme 'ftp'"), ("bucket: 'file://[::1'\n", "no URL"), ("bucket: file:///\n", "root"),
    ],
)  # fmt: skip
def test_a_number_or_bucket_that_no_run_can_have_is_refused_with_the_recipe(recipe, lines, message):
    with pytest.raises(IdeatorError, match=message):
        recipe(lines)


@pytest.mark.parametrize(
    "url",
    ["file:///%00", "file://[::1", "file:///", "//", "/..", "file://", "file:x", "", "  ", "a\0b", "a\nb", "s3://x",
     "http://x/y", "file://host/x", "file:///tmp/x?y=1", "file:///tmp/%ff", "\ud800", "C:\\x", "~nobody-here/x"],
)  # fmt: skip
def test_a_url_where_no_bucket_can_be_is_refused_and_nothing_is_made(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for look in (bucket_at, open_bucket):
        with pytest.raises(BucketError) as caught:
            look(url)
        assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def never(*_, **__):
    pytest.fail("it was called")


@pytest.mark.parametrize(
    "name",
    ["os.system", "subprocess.run", "subprocess.Popen", "builtins.print", "numpy.ndarray", "numpy.array", "a..b", ".x",
     "..x.y", "x\0.y", "numpy.nothing", "nopackage.x", "test_reader.RECIPE", "posix.system"],
)  # fmt: skip
def test_a_dotted_path_that_is_no_plugin_is_refused_without_being_called(name, monkeypatch):
    import subprocess

    from ideator_rl.archive.parents import get_strategy
    from ideator_rl.diversity.embedding import get_embedder
    from ideator_rl.executor.backends import backend_class
    from ideator_rl.implementers.implementer import get_implementer
    from ideator_rl.search.strategies.lookup import get_search_strategy
    from ideator_rl.training.advantages import make_advantage

    for module, attribute in ((os, "system"), (subprocess, "run"), (subprocess, "Popen")):
        monkeypatch.setattr(module, attribute, never)
    doors = [resolve_reward, get_implementer, backend_class, get_embedder, get_search_strategy, make_advantage,
             lambda name: get_strategy(name, shown=1, elites=2)]  # fmt: skip
    for door in doors:
        if door is make_advantage and name in ("numpy.array", "numpy.ndarray"):
            continue  # it can be called with two values; what it returns is refused
        with pytest.raises(IdeatorError) as caught:
            door(name)
        assert "\n" not in str(caught.value)


def test_an_error_of_somebodys_module_names_its_file_and_line(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_typo.py").write_text("x = 1\ndef f(:\n")
    (tmp_path / "own_raises.py").write_text("x = 1\nraise RuntimeError('no data here')\n")
    (tmp_path / "own_needs.py").write_text("import no_such_package\n")
    with pytest.raises(PluginError, match=r"SyntaxError: .*own_typo.py, line 2"):
        resolve_reward("own_typo.f")
    with pytest.raises(PluginError, match=r"no data here \(.*own_raises.py, line 2"):
        resolve_reward("own_raises.f")
    with pytest.raises(UnknownName, match="no_such_package"):
        resolve_reward("own_needs.f")
