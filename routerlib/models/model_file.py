"""``models.toml``: the user's own models, where they are served and what they cost.

One table a model, named as its answers shall be recorded:

    [claude-x]
    provider = "anthropic"            # or "openai", or "openai-compatible" with a base_url
    api = "chat"                      # or "responses": which of OpenAI's APIs; not of anthropic
    model = "claude-x-20261101"       # what the server calls it (default: the table's name)
    api_key_env = "ANTHROPIC_API_KEY" # the environment variable that holds the key
    concurrency = 8                   # most calls in flight
    requests_per_minute = 50          # the provider's limits of this account
    tokens_per_minute = 40000
    thinking_tokens = 0               # what a reasoning model may write in thought, per call
    [claude-x.prices]                 # USD per million tokens
    input = 3.0
    cached_input = 0.3
    output = 15.0
    date = 2026-11-01
    source = "https://example.com/prices"

Invariants: no key is ever in the file, and what may be one is refused without being repeated; an
unknown field is an error; prices have a date and a source, or there are none.
"""

from __future__ import annotations

import datetime
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from routerlib.errors import ModelFileError
from routerlib.models.openai_responses import LEAST_TOKENS
from routerlib.models.rate import NO_LIMIT, Rate
from routerlib.models.transport import Backoff, Sdk, Transport, is_loopback
from routerlib.records import ModelCard

Api = Literal["chat", "responses"]

_TEXTS = (
    "provider",
    "api",
    "model",
    "base_url",
    "api_key_env",
    "family",
    "licence",
    "quantisation",
)
_COUNTS = ("parameters", "context_length", "thinking_tokens")
_LIMITS = ("concurrency", "requests_per_minute", "tokens_per_minute")
_PRICES = ("input", "cached_input", "output")
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,63}")


@dataclass(frozen=True, slots=True)
class Provider:
    """Whose SDK is used, and what stands for what a model's table leaves out."""

    sdk: Sdk
    base_url: str | None
    api_key_env: str | None


PROVIDERS: Mapping[str, Provider] = {
    "openai": Provider("openai", "https://api.openai.com/v1", "OPENAI_API_KEY"),
    "openai-compatible": Provider("openai", None, None),
    "anthropic": Provider("anthropic", "https://api.anthropic.com", "ANTHROPIC_API_KEY"),
}


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One model of the file: its card, how to reach it, and how hard it may be asked.
    ``concurrency`` is the most calls in flight, None for no limit of its own. ``api`` is which of
    OpenAI's APIs is spoken; the Messages protocol is one alone."""

    card: ModelCard
    sdk: Sdk
    base_url: str
    model_name: str
    api_key_env: str | None
    concurrency: int | None = None
    rate: Rate = NO_LIMIT
    thinking_tokens: int = 0
    api: Api = "chat"

    @property
    def is_local(self) -> bool:
        """Whether its server is on this machine."""
        return is_loopback(self.base_url)

    @property
    def least_tokens(self) -> int:
        """The lowest limit of tokens that a call can have."""
        return LEAST_TOKENS if self.api == "responses" else 1

    def make_transport(
        self,
        *,
        timeout_s: float = 120.0,
        max_retries: int = 2,
        backoff: Backoff | None = None,
        max_in_flight: int = 4,
    ) -> Transport:
        """Make the way to the model; no I/O."""
        return Transport(
            self.sdk,
            self.model_name,
            self.base_url,
            self.api_key_env,
            timeout_s,
            max_retries,
            backoff or Backoff(),
            max_in_flight,
            seed=0,
            rate=self.rate,
        )


def load_model_file(path: Path) -> dict[str, ModelEntry]:
    """Read all models of a file, in its order. Raises ModelFileError that names the file, the
    model, the field and the remedy."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelFileError(f"there is no file {path}: write one, or name yours") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ModelFileError(f"{path} cannot be read: {error}") from error
    if not content:
        raise ModelFileError(f"{path} has no model: give each a table, [its-name]")
    return {name: _read_entry(f"{path}, [{name}]", name, table) for name, table in content.items()}


def _read_entry(where: str, name: str, table: Any) -> ModelEntry:
    if not isinstance(table, dict):
        raise ModelFileError(f"{where} is no table: write [{name}] and its fields below it")
    known = (*_TEXTS, *_COUNTS, *_LIMITS, "prices")
    for key in table:
        if key not in known:
            remedy = "keys come from the environment: give api_key_env" if "key" in key else ""
            raise ModelFileError(
                f"{where} has a field {key!r}: {remedy or 'the fields are ' + ', '.join(known)}"
            )
    texts = {key: _read_text(where, table, key) for key in _TEXTS}
    provider = PROVIDERS.get(texts["provider"] or "")
    if provider is None:
        raise ModelFileError(
            f"{where}: provider is {texts['provider']!r}; give one of {', '.join(PROVIDERS)}"
        )
    base_url = texts["base_url"] or provider.base_url
    if base_url is None:
        raise ModelFileError(f"{where} needs a base_url, the server's address up to and with /v1")
    check_base_url(where, base_url)
    is_own = base_url.rstrip("/") == (provider.base_url or "").rstrip("/")
    variable = texts["api_key_env"] or (provider.api_key_env if is_own else None)
    if variable is not None and not _VARIABLE.fullmatch(variable):
        raise ModelFileError(
            f"{where}: api_key_env is not the name of an environment variable (capitals, digits "
            "and _). If it is a key, take it out of the file and revoke it if the file was shared"
        )
    limits = {key: _read_limit(where, table, key) for key in _LIMITS}
    return ModelEntry(
        card=ModelCard(
            id=name,
            provider=texts["provider"] or "",
            family=texts["family"] or name,
            quantisation=texts["quantisation"] or "unknown",
            weights_sha256=None,
            licence=texts["licence"] or "unknown",
            parameters=_read_count(where, table, "parameters"),
            context_length=_read_count(where, table, "context_length"),
            **_read_prices(where, table.get("prices")),
        ),
        sdk=provider.sdk,
        base_url=base_url.rstrip("/"),
        model_name=texts["model"] or name,
        api_key_env=variable,
        concurrency=limits["concurrency"],
        rate=Rate(limits["requests_per_minute"], limits["tokens_per_minute"]),
        thinking_tokens=_read_count(where, table, "thinking_tokens"),
        api=_read_api(where, provider, texts["api"]),
    )


def check_base_url(where: str, base_url: str) -> None:
    """Refuse an address that may hold a key, without repeating it: it is printed and recorded."""
    if any(mark in base_url for mark in "@?#"):
        raise ModelFileError(
            f"{where}: base_url has an @, ? or #, so a user's name, a query or a fragment, which "
            "may hold a key: leave that out, and name the environment variable that holds the key "
            "in api_key_env. If it is a key, revoke it if the file was shared"
        )


def _read_api(where: str, provider: Provider, given: str | None) -> Api:
    if given is not None and provider.sdk != "openai":
        raise ModelFileError(
            f"{where}: api is {given!r}, but {provider.sdk} has one API alone: leave api out"
        )
    if given is None:
        return "chat"
    if given not in get_args(Api):
        raise ModelFileError(
            f"{where}: api is {given!r}; give one of {', '.join(get_args(Api))}, or leave it out "
            "for chat"
        )
    return cast(Api, given)


def _read_limit(where: str, table: Mapping[str, Any], key: str) -> int | None:
    if key in table and _read_count(where, table, key) == 0:
        raise ModelFileError(f"{where}: {key} is 0; give a limit, or leave it out for none")
    return _read_count(where, table, key) or None


def _read_text(where: str, table: Mapping[str, Any], key: str) -> str | None:
    value = table.get(key)
    if value is not None and (not isinstance(value, str) or not value.strip()):
        given = type(value).__name__ if key == "base_url" else repr(value)  # it may hold a key
        raise ModelFileError(f"{where}: {key} is {given}; give a text")
    return value


def _read_count(where: str, table: Mapping[str, Any], key: str) -> int:
    value = table.get(key, 0)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ModelFileError(f"{where}: {key} is {value!r}; give a whole number, or leave it out")
    return value


def _read_prices(where: str, prices: Any) -> dict[str, Any]:
    """Return the card's price fields; none where the table is left out."""
    if prices is None:
        return {}
    wanted = {*_PRICES, "date", "source"}
    if not isinstance(prices, dict) or prices.keys() != wanted:
        raise ModelFileError(
            f"{where}: prices need {', '.join(sorted(wanted))}, all of them and no other; a model "
            "without a published price has no prices"
        )
    for key in _PRICES:
        value = prices[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e6:
            raise ModelFileError(
                f"{where}: price {key} is {value!r}; give USD per million tokens, 0 or more"
            )
    if type(prices["date"]) is not datetime.date:
        raise ModelFileError(f"{where}: the prices' date is {prices['date']!r}; give 2026-11-01")
    if not isinstance(prices["source"], str) or not prices["source"].strip():
        raise ModelFileError(f"{where}: the prices need a source: where they are published")
    return {f"{key}_usd_per_mtok": float(prices[key]) for key in _PRICES} | {
        "price_date": prices["date"].isoformat(),
        "price_source": prices["source"],
    }
