"""A model server inside this process: llama.cpp through ``xllamacpp``, for a quick try.

Invariants: it listens on loopback only, on a port that the system chose unless one is asked for;
leaving the context stops it; replies carry ``model_name`` and never the weights' path. llama.cpp
answers slowly beside a batching engine: record long runs with vLLM.
"""

from __future__ import annotations

import argparse
import gc
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from routerlib.errors import ServerError, WeightsError


@dataclass(slots=True)
class LocalServer:
    """A context manager that serves one GGUF file at ``base_url``.

    Args:
        weights: the GGUF file.
        model_name: the name that replies carry.
        port: port on loopback; 0 lets the system choose a free one.
        context_length: tokens of prompt and answer together, for each of the slots.
        slots: requests answered together; further ones wait.
        threads: processor threads of the engine; None for the engine's own choice.
    """

    weights: Path
    model_name: str
    port: int = 0
    context_length: int = 1536
    slots: int = 4
    threads: int | None = None
    _server: Any = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.context_length < 1 or self.slots < 1 or not 0 <= self.port < 65536:
            raise ValueError(f"{self}: context_length and slots must be >= 1, port in 0..65535")

    @property
    def base_url(self) -> str:
        """The address for ``OpenAICompatibleModel(..., prefill="plain")``.

        Raises:
            ServerError: the server is not running.
        """
        if self._server is None:
            raise ServerError(f"the server of {self.model_name} is not running: enter it first")
        return f"{self._server.listening_address}/v1"

    def __enter__(self) -> Self:
        """Load the weights and listen.

        Raises:
            WeightsError: there is no such file.
            ServerError: the server is running already, or the engine refused the file or the port.
        """
        if self._server is not None:
            raise ServerError(f"the server of {self.model_name} is running already")
        if not self.weights.is_file():
            raise WeightsError(f"no weights at {self.weights}: `routerlib weights fetch` gets them")
        import xllamacpp

        try:
            self._server = xllamacpp.Server(self._make_params())
        except Exception as failure:  # the engine's errors have no common class
            raise ServerError(
                f"llama.cpp could not serve {self.weights.name} on port {self.port}: {failure}. "
                f"Is it a GGUF file, and is the port free?"
            ) from failure
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server = None  # the engine stops when its last reference goes
        gc.collect()

    def _make_params(self) -> Any:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(self.weights)
        params.model_alias = {self.model_name}
        params.hostnames = ["127.0.0.1"]
        params.port = self.port
        params.n_ctx = self.context_length * self.slots  # the engine divides it among its slots
        params.n_parallel = self.slots
        params.verbosity = 0
        params.ui = False
        if self.threads is not None:
            params.cpuparams.n_threads = self.threads
        return params


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve one GGUF file until SIGINT or SIGTERM: what ``serve`` runs in a child process."""
    parser = argparse.ArgumentParser(description="Serve one GGUF file with llama.cpp.")
    parser.add_argument("weights", type=Path)
    parser.add_argument("--model-name", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--context-length", type=int, required=True)
    parser.add_argument("--slots", type=int, required=True)
    given = parser.parse_args(arguments)
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    with LocalServer(
        given.weights, given.model_name, given.port, given.context_length, given.slots
    ):
        while not stopped.wait(0.2):  # a wait without a limit would hold signals back
            pass
