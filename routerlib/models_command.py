"""``routerlib models``: what the user's file of models says, and what its models can do."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from routerlib.errors import ModelFileError, make_printable

if TYPE_CHECKING:
    from routerlib.models.capabilities import Capabilities
    from routerlib.models.model_file import ModelEntry

MODELS_FILE = Path("models.toml")


def add_models_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its options to the parser's commands."""
    parser = commands.add_parser("models", help="list or check the models of models.toml")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    command = actions.add_parser("list", help="print each model, its server and its prices")
    command.add_argument("--models", type=Path, default=MODELS_FILE, help="default: models.toml")
    command.set_defaults(run=_run_list)
    command = actions.add_parser(
        "check",
        help="ask models what they can do, a dozen small requests each at most",
        description="Asks each model for log-probabilities, to continue a begun answer, and so on. "
        "Each request is billed; they take a few hundred tokens together.",
    )
    command.add_argument("names", nargs="+", metavar="NAME", help="models of the file")
    command.add_argument("--models", type=Path, default=MODELS_FILE, help="default: models.toml")
    command.set_defaults(run=_run_check)


def _run_list(options: argparse.Namespace) -> int:
    from routerlib.models.model_file import load_model_file

    for name, entry in load_model_file(options.models).items():
        print(f"{name}: {entry.model_name} at {entry.base_url}, {_describe_prices(entry)}")
    return 0


def _run_check(options: argparse.Namespace) -> int:
    from routerlib.models.capabilities import probe_capabilities
    from routerlib.models.model_file import load_model_file

    entries = load_model_file(options.models)
    for name in options.names:
        if name not in entries:
            raise ModelFileError(
                f"{options.models} has no model {name!r}: it has {', '.join(entries)}"
            )

    async def check(entry: ModelEntry) -> Capabilities:
        transport = entry.make_transport()
        try:
            return await probe_capabilities(transport, entry.api, entry.thinking_tokens)
        finally:
            await transport.aclose()

    for name in options.names:
        print(f"{name}: {_describe_prices(entries[name])}", flush=True)
        for line in describe_capabilities(asyncio.run(check(entries[name]))):
            print(f"  {line}", flush=True)
    return 0


def describe_capabilities(found: Capabilities) -> list[str]:
    """Return a line for each capability, and one for each request that was refused."""
    alternatives = f"with {found.top_logprobs} alternatives" if found.top_logprobs else "alone"
    lines = [
        f"answers as                 {make_printable(found.returned_model)}",
        f"continues a begun answer   {found.prefill}",
        f"log-probabilities          {alternatives if found.logprobs else 'none'}",
        f"stop sequences             {_describe(found.stop)}",
        f"stop at white space        {_describe(found.blank_stop)}",
        f"temperature                {_describe(found.temperature)}",
        f"seed                       {_describe(found.seed)}",
        f"cached tokens in usage     {_describe(found.reports_cached_tokens)}",
        f"limit of tokens            {found.limit_field}",
        f"highest limit              {found.most_output_tokens or 'not told'}",
    ]
    for name, text in found.refusals.items():
        one_line = " ".join(make_printable(text).split())
        lines.append(f"refused, {name}: {one_line}")
    return lines


def _describe(can: bool) -> str:
    return "yes" if can else "no"


def _describe_prices(entry: ModelEntry) -> str:
    card = entry.card
    if card.price_date is None:
        return "no prices: lens usd refuses it"
    return (
        f"USD {card.input_usd_per_mtok:g} in, {card.cached_input_usd_per_mtok:g} cached, "
        f"{card.output_usd_per_mtok:g} out per million tokens ({card.price_date}, "
        f"{card.price_source})"
    )
