"""One engine as a child process: started, waited for, stopped with all its children.

Invariants: the engine leads its own process group, and stopping ends the whole group, politely
first; a Ctrl-C at the terminal reaches the engine through ``stop`` only; whatever the engine writes
goes to a log file, whose tail is part of every error.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from routerlib.errors import ServerError

Report = Callable[[str], None]
"""Receives one line of progress at a time."""


def report_nothing(line: str) -> None:
    """Drop a line of progress."""


def choose_port(wanted: int | None) -> int:
    """Return a port on loopback that nothing listens on: the wanted one, or one the system chose.

    Raises:
        ServerError: the wanted port is taken.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted or 0))
            probe.listen()
        except OSError as failure:
            raise ServerError(
                f"port {wanted} cannot be used ({failure}): stop what uses it, or choose another"
            ) from failure
        return int(probe.getsockname()[1])


@dataclass(slots=True)
class EngineProcess:
    """A model server in a child process.

    Args:
        name: what progress and errors call it.
        command: program and arguments.
        port: where on 127.0.0.1 the command will answer ``GET /health`` with 200.
        log_path: file for the engine's output; written anew at each start.
        environment: variables on top of this process's own.
        grace_s: seconds between asking the group to end and killing it.
    """

    name: str
    command: Sequence[str]
    port: int
    log_path: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    grace_s: float = 15.0
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)

    @property
    def base_url(self) -> str:
        """The address for a client, with ``/v1``."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def pid(self) -> int | None:
        """The engine's process and group id while it is started, else None."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the engine; it is not ready yet.

        Raises:
            ServerError: it is started already, or the program cannot be run.
        """
        if self._process is not None:
            raise ServerError(f"{self.name} is started already (process {self._process.pid})")
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log_path, "wb") as log:
            try:
                self._process = subprocess.Popen(
                    list(self.command),
                    env={**os.environ, **self.environment},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as failure:
                raise ServerError(
                    f"{self.name}: cannot run {self.command[0]}: {failure}"
                ) from failure

    def wait_until_healthy(
        self, timeout_s: float, report: Report = report_nothing, *, poll_s: float = 0.5
    ) -> None:
        """Return when ``/health`` answers 200; report a line every ten seconds.

        Raises:
            ServerError: the engine ended, or the time passed (the engine is stopped then).
        """
        if self._process is None:
            raise ServerError(f"{self.name} is not started")
        started = time.monotonic()
        next_line_s = 10.0
        while not self._is_healthy():
            waited_s = time.monotonic() - started
            code = self._process.poll()
            if code is not None:
                self.stop()
                raise ServerError(f"{self.name} ended with code {code}. {self._quote_log()}")
            if waited_s > timeout_s:
                self.stop()
                raise ServerError(
                    f"{self.name} was not ready after {timeout_s:.0f} s and is stopped; allow more "
                    f"time if it was still loading. {self._quote_log()}"
                )
            if waited_s >= next_line_s:
                report(f"{self.name}: not ready after {waited_s:.0f} s; {self._read_last_line()}")
                next_line_s += 10.0
            time.sleep(poll_s)
        report(f"{self.name}: ready at {self.base_url} after {time.monotonic() - started:.0f} s")

    def wait(self) -> None:
        """Block while the engine runs.

        Raises:
            ServerError: the engine ended by itself.
        """
        if self._process is None:
            raise ServerError(f"{self.name} is not started")
        code = self._process.wait()
        raise ServerError(f"{self.name} ended with code {code}. {self._quote_log()}")

    def stop(self) -> None:
        """End the engine's whole process group; nothing happens when it is not started."""
        process = self._process
        if process is None:
            return
        _signal_group(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + self.grace_s
        try:
            while _is_group_alive(process) and time.monotonic() < deadline:
                time.sleep(0.05)
        finally:  # a second Ctrl-C shortens the grace and still leaves nothing behind
            _signal_group(process.pid, signal.SIGKILL)
            process.wait()
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _is_healthy(self) -> bool:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"http://127.0.0.1:{self.port}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except (OSError, ValueError):  # not listening yet, still loading, or half an answer
            return False

    def _read_log(self) -> list[str]:
        text = self.log_path.read_text(encoding="utf-8", errors="replace")
        return [line for line in text.splitlines() if line.strip()]

    def _read_last_line(self) -> str:
        lines = self._read_log()
        return f"its log ends: {lines[-1][-160:]}" if lines else "its log is empty"

    def _quote_log(self) -> str:
        tail = "\n".join(self._read_log()[-20:]) or "(nothing)"
        return f"The end of its log {self.log_path}:\n{tail}"


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _is_group_alive(process: subprocess.Popen[bytes]) -> bool:
    process.poll()  # collects the leader, which would count as alive otherwise
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextlib.contextmanager
def signals_raise(make_error: Callable[[int], BaseException]) -> Iterator[None]:
    """Make SIGTERM and a closed terminal raise ``make_error(number)``, so that all clean up. A
    signal that is ignored (``nohup``) stays ignored."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise make_error(number)

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
