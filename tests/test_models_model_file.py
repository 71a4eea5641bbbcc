"""models.toml: what is read, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from routerlib import paths
from routerlib.cli import main
from routerlib.costs import make_lens
from routerlib.errors import ModelFileError, UnpricedModelError
from routerlib.models.model_file import PROVIDERS, load_model_file
from routerlib.weights import get_model_card

FULL = """
["my/claude x"]
provider = "anthropic"
model = "claude-x-20261101"
api_key_env = "SOME_KEY"
family = "claude"
context_length = 200000

["my/claude x".prices]
input = 3
cached_input = 0.3
output = 15.0
date = 2026-11-01
source = "https://example.com/prices"

[local]
provider = "openai-compatible"
base_url = "http://127.0.0.1:8000/v1/"
parameters = 500000000
"""
PRICES = FULL.partition(".prices]\n")[2].partition("\n\n")[0]


def write(folder: Path, text: str) -> Path:
    path = folder / "models.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_what_a_file_says(tmp_path: Path) -> None:
    models = load_model_file(write(tmp_path, FULL))
    assert list(models) == ["my/claude x", "local"]
    closed, local = models.values()
    assert closed.card.id == "my/claude x"
    assert (closed.sdk, closed.model_name) == ("anthropic", "claude-x-20261101")
    assert (closed.base_url, closed.api_key_env) == ("https://api.anthropic.com", "SOME_KEY")
    assert (closed.card.family, closed.card.context_length) == ("claude", 200000)
    assert closed.card.price_date == "2026-11-01"
    assert closed.card.price_source == "https://example.com/prices"
    assert make_lens("usd", [closed.card]).weights[0] == pytest.approx([3e-6, 3e-7, 1.5e-5])
    assert (local.sdk, local.model_name, local.api_key_env) == ("openai", "local", None)
    assert local.base_url == "http://127.0.0.1:8000/v1"
    assert make_lens("flops", [local.card]).weights[0] == pytest.approx([1.0, 0.0, 1.0])
    with pytest.raises(UnpricedModelError):
        make_lens("usd", [local.card])
    with pytest.raises(UnpricedModelError):
        make_lens("flops", [closed.card])


def test_the_file_to_start_from() -> None:
    small, large = load_model_file(paths.ROOT / "docs" / "models.toml").values()
    card = get_model_card("qwen2.5-coder-0.5b-instruct-q4_k_m", "vllm")
    assert small.card.parameters == card.parameters
    assert (large.sdk, large.card.price_date) == ("anthropic", None)


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_a_provider_has_an_address_and_a_key_of_its_own(tmp_path: Path, provider: str) -> None:
    entry = load_model_file(write(tmp_path, f'[gpt-x]\nprovider = "{provider}"'))["gpt-x"]
    assert entry.base_url == PROVIDERS[provider].base_url
    assert entry.api_key_env == PROVIDERS[provider].api_key_env
    transport = entry.make_transport()
    assert (transport.sdk, transport.model_name) == (provider, "gpt-x")
    assert transport.base_url.startswith("https://")


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_a_providers_key_goes_to_no_other_server_unless_named(
    tmp_path: Path, provider: str
) -> None:
    head = f'[m]\nprovider = "{provider}"\nbase_url = "http://127.0.0.1:8000/v1"\n'
    assert load_model_file(write(tmp_path, head))["m"].api_key_env is None
    named = load_model_file(write(tmp_path, head + 'api_key_env = "SOME_KEY"'))["m"]
    assert named.api_key_env == "SOME_KEY"
    own = head.replace("http://127.0.0.1:8000/v1", f"{PROVIDERS[provider].base_url}/")
    assert load_model_file(write(tmp_path, own))["m"].api_key_env is not None


@pytest.mark.parametrize("provider", ["openai", "openai-compatible"])
def test_which_of_openais_apis(tmp_path: Path, provider: str) -> None:
    head = f'[gpt-x]\nprovider = "{provider}"\nbase_url = "http://127.0.0.1:8000/v1"\n'
    found = {}
    for line in ("", 'api = "chat"', 'api = "responses"'):
        entry = load_model_file(write(tmp_path, head + line))["gpt-x"]
        found[line] = (entry.api, entry.least_tokens)
    assert list(found.values()) == [("chat", 1), ("chat", 1), ("responses", 16)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no model: give each a table"),
        ("[a", "cannot be read"),
        ("a = 3", r"\[a\] is no table"),
        ("[a]", "provider is None; give one of openai, openai-compatible, anthropic"),
        ('[a]\nprovider = "closedai"', "provider is 'closedai'"),
        ('[a]\nprovider = "openai-compatible"', "needs a base_url"),
        ('[a]\nprovider = "openai"\ntemperatur = 1', "a field 'temperatur': the fields are"),
        ('[a]\nprovider = "openai"\napi = "batch"', "api is 'batch'; give one of chat, responses"),
        ('[a]\nprovider = "openai"\napi = true', "api is True; give a text"),
        ('[a]\nprovider = "anthropic"\napi = "responses"', "one API alone: leave api out"),
        ('[a]\nprovider = "anthropic"\napi = "chat"', "one API alone: leave api out"),
        (
            '[a]\nprovider = "openai-compatible"\nbase_url = ["https://sk-1@host"]',
            "base_url is list; give a text",
        ),
        ('[a]\nprovider = "openai"\nmodel = ""', "model is ''; give a text"),
        ('[a]\nprovider = "openai"\nmodel = 3', "model is 3; give a text"),
        ('[a]\nprovider = "openai"\nparameters = -1', "parameters is -1"),
        ('[a]\nprovider = "openai"\nparameters = true', "parameters is True"),
        ('[a]\nprovider = "openai"\nprices = 3', "prices need cached_input, date, input"),
        ('[a]\nprovider = "openai"\n[a.prices]\ninput = 1', "all of them and no other"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ModelFileError, match=message) as caught:
        load_model_file(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("line", "changed", "message"),
    [
        ("input = 3", "input = -3", "price input is -3"),
        ("output = 15.0", "output = nan", "price output is nan"),
        ("output = 15.0", "output = true", "price output is True"),
        ("date = 2026-11-01", 'date = "yesterday"', "date is 'yesterday'"),
        ("date = 2026-11-01", "date = 2026-11-01T00:00:00", "date is datetime"),
        ('source = "https://example.com/prices"', 'source = " "', "need a source"),
        ("output = 15.0", "", "all of them and no other"),
    ],
)
def test_prices_that_are_refused(tmp_path: Path, line: str, changed: str, message: str) -> None:
    assert line in PRICES
    head = '[a]\nprovider = "openai"\n[a.prices]\n'
    load_model_file(write(tmp_path, head + PRICES))
    with pytest.raises(ModelFileError, match=message):
        load_model_file(write(tmp_path, head + PRICES.replace(line, changed)))


@pytest.mark.parametrize("field", ["api_key", "api_key_env", "key"])
def test_a_key_in_the_file_is_refused_and_not_repeated(tmp_path: Path, field: str) -> None:
    path = write(tmp_path, f'[a]\nprovider = "openai"\n{field} = "sk-secret-1"')
    with pytest.raises(ModelFileError, match=r"api_key_env|environment") as caught:
        load_model_file(path)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://secret-1@example.com/v1",
        "https://user:secret-1@example.com/v1",
        "https://user:secret/1@example.com/v1",
        "user:secret-1@example.com/v1",
        "https://example.com/v1?key=secret-1",
        "https://example.com/v1#secret-1",
        "https://secret-1@[example.com/v1",
    ],
)
def test_a_key_in_an_address_is_refused_and_not_repeated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], url: str
) -> None:
    path = write(tmp_path, f'[a]\nprovider = "openai-compatible"\nbase_url = "{url}"')
    with pytest.raises(ModelFileError, match=r"\[a\]: base_url .*api_key_env") as caught:
        load_model_file(path)
    assert "secret" not in str(caught.value)
    assert main(["models", "list", "--models", str(path)]) == 1
    printed = capsys.readouterr()
    assert "[a]: base_url" in printed.err
    assert "secret" not in printed.out + printed.err


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="there is no file"):
        load_model_file(tmp_path / "models.toml")
    with pytest.raises(ModelFileError, match="cannot be read"):
        load_model_file(tmp_path)
