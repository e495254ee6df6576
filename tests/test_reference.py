"""The reference pages of configuration are those that docs/generate.py writes from the classes."""

import importlib.util
from pathlib import Path

import pytest

from ideator_rl.config.base import config_fields

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def generate():
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_page_is_stale(generate):
    for name, text in generate.pages().items():
        page = generate.FOLDER / name
        assert page.is_file() and page.read_text() == text, f"{page} is stale: run `make reference`"


def test_every_key_of_a_recipe_has_a_description(generate):
    for kind in (generate.IdeatorConfig, generate.SearchConfig, generate.ChatSettings, generate.LocalSettings):
        for name in config_fields(kind):
            assert generate.description(kind, name), f"{kind.__name__}.{name} has no docstring"


def test_a_key_in_no_group_is_noticed(generate):
    groups = {**generate.SEARCH_GROUPS, "Flow": ["flow"]}
    with pytest.raises(ValueError, match="every key of SearchConfig"):
        generate._grouped(generate.SearchConfig, groups, (generate.RunSettings,))
