"""What the redactor removes from texts and settings, and what it leaves alone."""

import pytest

from ideator_rl.errors import IdeatorError
from ideator_rl.text.redaction import HIDDEN, Redactor, refuse_secrets, without_tokens

TOKEN = "hf_" + "A1" * 12
ENVIRON = {"SOME_API_KEY": "key-of-the-environment", "SHORT_TOKEN": "word", "MY_NAME": "key-of-nothing", "PHRASE": "from-the-recipe"}  # fmt: skip


@pytest.fixture
def redactor():
    return Redactor({"coder": {"api_key_env": "PHRASE"}}, ENVIRON)


def test_a_text_loses_secret_values_tokens_and_logins_of_urls(redactor):
    text = f"key-of-the-environment from-the-recipe {TOKEN} https://me:password@host/x word key-of-nothing"
    assert redactor.text(text) == f"{HIDDEN} {HIDDEN} {HIDDEN} https://host/x word key-of-nothing"


@pytest.mark.parametrize("before", ["", "a." * 500_000, "a://" * 250_000 + " "], ids=["nothing", "a scheme", "URLs"])
def test_nothing_before_a_url_hides_its_secrets_or_takes_quadratic_time(before):
    # Half a million of starts, each searched to the end of the text, would take hours.
    assert Redactor().text(f"{before}x://me:password@host").endswith("x://host")
    assert without_tokens(f"{before}x://host/a?sig=secret z").endswith(f"x://host/a?{HIDDEN} z")


@pytest.mark.parametrize("text", ["é_http://a:b@c", "9http://a:b@c", "x" * 99 + "+9-.://a:b@c"])
def test_characters_glued_to_a_scheme_do_not_save_its_login(text):
    assert "b" not in Redactor().text(text) and "?" + HIDDEN in without_tokens(text.replace("a:b@c", "a/?b"))


def test_a_url_without_a_query_stays_as_it_is():
    assert without_tokens("http://a/b? http://c ://d?e") == "http://a/b? http://c ://d?e"


def test_a_secret_that_begins_another_secret_does_not_leave_its_end():
    redactor = Redactor(None, {"A_TOKEN": "12345678", "B_TOKEN": "12345678-and-more"})
    assert redactor.text("12345678-and-more") == HIDDEN


def test_names_of_variables_that_end_in_key_auth_or_pwd_are_secret():
    values = {"AZURE_STORAGE_ACCOUNT_KEY": "account-key", "LITELLM_KEY": "gateway-key", "DB_PWD": "database-pwd"}
    public = {"PWD": "/home/me/work", "OLDPWD": "/home/me/other", "KEYBOARD": "qwertz-de", "MONKEY": "chimpanzee"}
    redactor = Redactor(None, {**values, **public})
    assert redactor.text(" ".join(values.values())) == " ".join([HIDDEN] * 3)
    assert redactor.text(" ".join(public.values())) == " ".join(public.values())


def test_half_a_surrogate_pair_becomes_encodable(redactor):
    assert redactor.text("a\ud800b").encode() == b"a?b"


def test_settings_lose_secret_keys_at_any_depth_and_queries_of_urls(redactor):
    settings = {"hub_token": "x", "deep": [{"Authorization": "y", "rate": 0.5}], "url": "https://a:b@host/v1?sig=z#f"}
    assert redactor.settings(settings) == {
        "hub_token": HIDDEN,
        "deep": [{"Authorization": HIDDEN, "rate": 0.5}],
        "url": "https://host/v1",
    }


def test_an_empty_secret_stays_empty(redactor):
    assert redactor.settings({"hub_token": None, "password": ""}) == {"hub_token": None, "password": ""}


@pytest.mark.parametrize("path", ["/home/me/models/mine", "~/models/mine/", "file:///home/me/mine"])
def test_absolute_paths_keep_their_last_part_only_if_shortened(redactor, path):
    assert redactor.settings({"model": path}) == {"model": "…/mine"}
    assert redactor.settings({"model": path}, shorten_paths=False) == {"model": path}


def test_headers_and_parameters_of_an_address_show_the_names_of_variables_alone():
    recipe = {
        "ideator_options": {"extra_headers": {"X-Plain": "word", "api-key": "${PHRASE}"}, "extra_query": {"v": 1}}
    }
    redactor = Redactor(recipe, ENVIRON)
    hidden = {"extra_headers": {"X-Plain": HIDDEN, "api-key": "${PHRASE}"}, "extra_query": {"v": HIDDEN}}
    assert redactor.settings(recipe) == {"ideator_options": hidden}
    assert redactor.text("a from-the-recipe b") == f"a {HIDDEN} b"
    refuse_secrets(recipe, "The recipe has", IdeatorError)
