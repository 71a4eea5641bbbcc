"""Serving a recorded model on this machine: the engines behind ``routerlib serve-local``.

Invariants: both engines answer ``/v1/chat/completions`` on loopback under the model's own id;
leaving the context, Ctrl-C, SIGTERM and a closed terminal all stop the engine with every process
it made.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from routerlib.engine_process import (
    EngineProcess,
    Report,
    choose_port,
    report_nothing,
    signals_raise,
)
from routerlib.errors import ServerError, WeightsError
from routerlib.models.openai_compatible import Prefill
from routerlib.paths import get_cache_dir
from routerlib.vllm_engine import (
    VllmSettings,
    build_vllm_command,
    build_vllm_environment,
    choose_arithmetic,
    convert_weights,
    install_vllm,
)
from routerlib.weights import find_weights, get_weights

Engine = Literal["llamacpp", "vllm"]
ENGINES: tuple[Engine, ...] = ("llamacpp", "vllm")

ENGINE_PREFILL: dict[Engine, Prefill] = {"llamacpp": "plain", "vllm": "continue_final_message"}
"""How each engine is told to continue a text: ``OpenAICompatibleModel(prefill=...)``."""

ENGINE_TAKES_SEED: dict[Engine, bool] = {"llamacpp": True, "vllm": False}
"""Whether an engine takes a request's seed. vllm on a processor stops at one when it answers other
requests beside it ("CPU Generator does not use offset")."""

_SERVE_GGUF = "from routerlib.models.local_server import main; main()"

CONCURRENCY: dict[Engine, int] = {"llamacpp": 4, "vllm": 128}
"""Requests that each engine answers together, unless told otherwise."""


@contextmanager
def serve_local(
    engine: Engine,
    model_name: str,
    port: int | None = None,
    *,
    served_name: str | None = None,
    context_length: int = 2048,
    concurrency: int | None = None,
    cache_dir: Path | None = None,
    timeout_s: float = 900.0,
    report: Report = report_nothing,
) -> Iterator[EngineProcess]:
    """Serve fetched weights; the context holds the healthy server (``.base_url``).

    Args:
        engine: ``llamacpp`` starts in seconds; ``vllm`` answers many requests at once and installs
            its own environment at its first use.
        model_name: name of the weights, or ``ModelCard.id``.
        port: on loopback; None takes a free one.
        served_name: name that requests and replies carry; the ``ModelCard.id`` when None.
        context_length: tokens of prompt and answer together.
        concurrency: requests answered together; ``CONCURRENCY[engine]`` when None.
        cache_dir: folder of weights, engines and logs.
        timeout_s: longest wait for the engine to become healthy.
        report: receives lines of progress.

    Raises:
        WeightsError: unknown model, or its weights are not fetched.
        ServerError: the port is taken, or the engine could not be made ready; with its log's end.
    """
    process = prepare_engine(
        engine,
        model_name,
        port,
        served_name=served_name,
        context_length=context_length,
        concurrency=concurrency,
        cache_dir=cache_dir,
        report=report,
    )
    with signals_raise(lambda number: SystemExit(128 + number)), process:
        process.wait_until_healthy(timeout_s, report)
        yield process


def prepare_engine(
    engine: Engine,
    model_name: str,
    port: int | None = None,
    *,
    served_name: str | None = None,
    context_length: int = 2048,
    concurrency: int | None = None,
    cache_dir: Path | None = None,
    report: Report = report_nothing,
) -> EngineProcess:
    """Return the engine ready to be started; see ``serve_local`` for arguments and errors."""
    if engine not in ENGINES:
        raise ServerError(f"unknown engine {engine!r}; choose from {list(ENGINES)}")
    weights = get_weights(model_name)
    path = find_weights(model_name, cache_dir)
    if path is None:
        raise WeightsError(
            f"the weights {weights.name} are not in the cache: `routerlib weights fetch` gets them"
        )
    chosen = choose_port(port)
    name = served_name or weights.model_id
    together = CONCURRENCY[engine] if concurrency is None else concurrency
    environment: dict[str, str] = {}
    if engine == "vllm":
        settings = VllmSettings(
            context_length=context_length, sequences=together, arithmetic=choose_arithmetic()
        )
        report(f"{name}: computing in {settings.arithmetic}")
        folder_of_engine = install_vllm(cache_dir, report)
        folder = convert_weights(model_name, cache_dir, report)
        command = build_vllm_command(folder_of_engine, folder, name, chosen, settings)
        environment = build_vllm_environment(settings, _list_cores())
    else:
        command = build_llamacpp_command(path, name, chosen, context_length, together)
    log = (cache_dir or get_cache_dir()) / "logs" / f"{engine}-{weights.name}-{chosen}.log"
    return EngineProcess(f"{engine} with {name}", command, chosen, log, environment)


def build_llamacpp_command(
    weights: Path, served_name: str, port: int, context_length: int, slots: int
) -> list[str]:
    """Return the command that serves a GGUF file on loopback in a child process."""
    return [
        *(sys.executable, "-c", _SERVE_GGUF, str(weights)),
        *("--model-name", served_name),
        *("--port", str(port)),
        *("--context-length", str(context_length)),
        *("--slots", str(slots)),
    ]


def _list_cores() -> list[int]:
    """Return the processor cores that this process may use, in order."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))
