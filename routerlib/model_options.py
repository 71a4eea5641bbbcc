"""Options that name models, and the clients that come of them: local weights, served here or by a
server that already runs, or a table of ``models.toml``.

Invariants: what a model of the file can do is asked once for each store and recorded with the run,
so that a recording goes on as it began; with a spending cap every call of a model of the file is
paid from it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from routerlib.calls import run_cancellable
from routerlib.continuations import CONTINUATIONS
from routerlib.errors import ModelError, ModelFileError, SpendingCapError, WeightsError
from routerlib.serve import ENGINE_PREFILL, ENGINE_TAKES_SEED, serve_local
from routerlib.weights import WEIGHTS, get_model_card, get_weights

if TYPE_CHECKING:
    from routerlib.continuations import Continuation
    from routerlib.models.capabilities import Capabilities
    from routerlib.models.model_file import ModelEntry
    from routerlib.models.protocol import Model
    from routerlib.models.spending import SpendingCap
    from routerlib.records import ModelCard

SMALL = "qwen2.5-coder-0.5b-instruct-q4_k_m"
LARGE = "qwen2.5-coder-1.5b-instruct-q4_k_m"


@dataclass(frozen=True, slots=True)
class NamedModel:
    """What an option names; ``entry`` is its table in the file of models, or None."""

    role: str
    card: ModelCard
    entry: ModelEntry | None


def add_model_options(
    command: argparse.ArgumentParser, role: str, default: str | None, meaning: str
) -> None:
    """Add the options that name a model and its server; ``find_model`` reads them."""
    command.add_argument(f"--{role}", default=default, help=meaning)
    command.add_argument(f"--{role}-url", help="its server that already runs, up to and with /v1")
    command.add_argument(
        f"--{role}-name", help="what that server calls it (default: as serve-local does)"
    )
    command.add_argument(
        f"--{role}-alias",
        action="append",
        default=[],
        metavar="NAME",
        help="another name that its answers may carry",
    )


def add_models_file_option(command: argparse.ArgumentParser) -> None:
    """Add the option that names the file of models."""
    command.add_argument(
        "--models", type=Path, help="file of your own models, whose tables the options may name"
    )


def add_spending_option(command: argparse.ArgumentParser) -> None:
    """Add the option that caps what a run may cost; ``make_cap`` reads it."""
    command.add_argument(
        "--max-usd",
        type=above_zero,
        default=math.inf,
        help="most that this run may cost; needs the prices of all models that it calls (--models)",
    )


def add_continuation_option(command: argparse.ArgumentParser, role: str, meaning: str) -> None:
    """Add the option that names a model's protocol; ``choose_continuation`` reads it."""
    command.add_argument(
        f"--{role}-continuation",
        choices=CONTINUATIONS,
        help=f"{meaning} (default: prefill where the model can, else dialogue)",
    )


def above_zero(text: str) -> float:
    """Read an amount above 0."""
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def at_least(least: int) -> Callable[[str], int]:
    """Return a reader of whole numbers that refuses those below ``least``."""

    def integer(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is below {least}")
        return value

    return integer  # argparse calls what it refuses by this name


def find_model(options: argparse.Namespace, role: str) -> NamedModel:
    """Return the model with this role: a table of ``--models``, or local weights.

    Raises ModelFileError when the name is neither, for a server's address that may hold a key, and
    for one beside a table, which has its own; WeightsError for unknown weights where no file is
    given.
    """
    from routerlib.models.model_file import check_base_url, load_model_file

    name, path = getattr(options, role), getattr(options, "models", None)
    check_base_url(f"--{role}-url", getattr(options, f"{role}_url", None) or "")
    if path is None:
        return NamedModel(role, get_model_card(name, options.engine), None)
    entries = load_model_file(path)
    if name not in entries:
        try:
            return NamedModel(role, get_model_card(name, options.engine), None)
        except WeightsError as error:
            raise ModelFileError(
                f"--{role} is {name!r}: {path} has {', '.join(entries)}, and the known "
                f"weights are {', '.join(sorted(WEIGHTS))}"
            ) from error
    for option in ("url", "name"):
        if getattr(options, f"{role}_{option}", None) is not None:
            raise ModelFileError(
                f"--{role}-{option} is given, but [{name}] of {path} says where its "
                "server is and what that calls it: change it there"
            )
    return NamedModel(role, entries[name].card, entries[name])


def open_model(
    options: argparse.Namespace,
    named: NamedModel,
    concurrency: int,
    opened: contextlib.ExitStack,
    *,
    capabilities: Capabilities | None = None,
    cap: SpendingCap | None = None,
) -> Model:
    """Make a model's client: of its table, of the server that was named, or of one that is started
    here and lives as long as ``opened``. A table needs ``capabilities``; its calls are paid from
    ``cap``."""
    from routerlib.models.clients import make_client
    from routerlib.models.openai_compatible import OpenAICompatibleModel
    from routerlib.models.spending import CappedModel

    weights, base_url, given_name, aliases = (
        getattr(options, named.role + suffix) for suffix in ("", "_url", "_name", "_alias")
    )
    if named.entry is not None:
        assert capabilities is not None
        client = make_client(
            named.entry, capabilities, max_in_flight=concurrency, also_named=tuple(aliases)
        )
        if cap is None:
            return client
        return CappedModel(
            client,
            named.card,
            cap,
            client.max_retries + 1,
            named.entry.thinking_tokens,
            named.entry.least_tokens,
        )
    model_name = given_name or get_weights(weights).model_id
    if base_url is None:
        server = serve_local(
            options.engine,
            weights,
            served_name=model_name,
            concurrency=concurrency,
            report=print_report,
        )
        base_url = opened.enter_context(server).base_url
    return OpenAICompatibleModel(
        id=named.card.id,
        base_url=base_url,
        model_name=model_name,
        prefill=ENGINE_PREFILL[options.engine],
        takes_seed=ENGINE_TAKES_SEED[options.engine],
        max_in_flight=concurrency,
        also_named=tuple(aliases),
    )


def make_cap(max_usd: float, named: Sequence[NamedModel]) -> SpendingCap | None:
    """Return the cap of the models of the file; for an infinite one a cap that counts if all have
    prices, else None. Local weights cost no money. Raises UnpricedModelError."""
    from routerlib.models.spending import SpendingCap, get_prices

    hosted = [model for model in named if model.entry is not None]
    if math.isfinite(max_usd):
        for model in hosted:
            get_prices(model.card)
    elif not hosted or any(model.card.price_date is None for model in hosted):
        return None
    return SpendingCap(max_usd)


def choose_continuation(
    options: argparse.Namespace, named: NamedModel, capabilities: Capabilities | None
) -> Continuation:
    """Return what the option says, or else what the model can do. Raises ModelError for prefill
    where the model was found not to continue a begun answer."""
    wanted: Continuation | None = getattr(options, f"{named.role}_continuation")
    if capabilities is None or capabilities.prefill != "none":
        return wanted or "prefill"
    if wanted == "prefill":
        raise ModelError(
            f"{named.card.id} does not continue a begun answer (`routerlib models check` says what "
            f"it refused): use --{named.role}-continuation dialogue, continue_turn or one_shot"
        )
    return wanted or "dialogue"


def find_capabilities(
    named: NamedModel, recorded: Mapping[str, Capabilities], cap: SpendingCap | None = None
) -> Capabilities:
    """Return what a model of the file can do, as it was ``recorded`` of the same API or else by
    asking it, which is paid from ``cap``. Raises like ``probe_capabilities``."""
    from routerlib.models.capabilities import probe_capabilities
    from routerlib.models.spending import Payer

    assert named.entry is not None
    entry = named.entry
    known = recorded.get(named.card.id)
    if known is not None and known.api == entry.api:
        return known

    async def probe() -> Capabilities:
        transport = entry.make_transport()
        try:
            tries = transport.max_retries + 1
            payer = None if cap is None else Payer(named.card, cap, tries)
            return await probe_capabilities(transport, entry.api, entry.thinking_tokens, payer)
        finally:
            await transport.aclose()

    print_report(f"{named.card.id}: asking what it can do")
    try:
        return run_cancellable(probe())
    except SpendingCapError as full:
        raise SpendingCapError(
            f"{full}. {named.card.id} could not be asked all that it can do, which comes before "
            "any step: run it again with a higher --max-usd (max_usd of the notebook)"
        ) from full


def check_recorded(options: argparse.Namespace, named: Sequence[NamedModel]) -> None:
    """Raise ModelFileError where the store has answers of another model under the name of a table,
    whose ``model`` was changed since: two models would be taken for one."""
    from routerlib.models.names import is_same_model
    from routerlib.store import load_table

    if not any(model.entry for model in named) or not (options.traces / "manifest.json").is_file():
        return
    rows = load_table(options.traces, "steps", columns=["model_id", "returned_model"])
    answered = rows.group_by(["model_id", "returned_model"]).aggregate([]).to_pylist()
    for model in named:
        if model.entry is None:
            continue
        name, aliases = model.entry.model_name, getattr(options, f"{model.role}_alias")
        for returned in (a["returned_model"] for a in answered if a["model_id"] == model.card.id):
            if returned is not None and not is_same_model(returned, name, aliases):
                raise ModelFileError(
                    f"{options.traces} has steps of [{model.card.id}] that {returned!r} wrote, and "
                    f"the table now names {name!r}: give the new model a table of its own or "
                    "another --traces, or, if both are one model, name the old one with "
                    f"--{model.role}-alias"
                )


def load_capabilities(root: Path) -> dict[str, Capabilities]:
    """Return what the runs of a store found that models can do, by ``ModelCard.id``, the latest
    for each; nothing where there is no store yet."""
    from routerlib.models.capabilities import Capabilities
    from routerlib.store import load_table

    if not (root / "manifest.json").is_file():
        return {}
    found: dict[str, Capabilities] = {}
    for text in load_table(root, "runs", columns=["configuration"])["configuration"].to_pylist():
        for model_id, values in json.loads(text).get("capabilities", {}).items():
            found[model_id] = Capabilities(**values)
    return found


def print_report(line: str) -> None:
    """Print a line of progress where it does not mix with results."""
    print(line, file=sys.stderr, flush=True)
