r"""Are two MATH-style answers the same? By their text, then by math-verify (Kydlíček, 2025).

math-verify bounds its time with signals, which work in the main thread only and do not interrupt
a long computation in C. So it runs in a process of its own, started at the first use and reused,
that a watchdog ends when one comparison takes too long.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import functools
import json
import os
import re
import signal
import subprocess
import sys
import threading

from routerlib.errors import GradingError
from routerlib.paths import ROOT

COMPARISON_TIMEOUT_S = 20.0  # generous: a machine that also serves a model is slow

_WORKER_CODE = "from routerlib.grading.math_answer import run_worker; run_worker({timeout_s})"
_WATCHDOG_EXIT = 1  # the exit status that faulthandler gives
_FORMULA = re.compile(r"\$([^$]+)\$|\\\((.+?)\\\)")
_DELIMITERS = re.compile(r"(?<!\\)\$|\\[()\[\]](?![a-zA-Z])")
_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_TRAILING_WORDS = re.compile(r"(?<=\S)\s+([A-Za-z]{3,}(?:\s+[A-Za-z]{2,})*)$")


def normalise_math(text: str) -> str:
    r"""Return a text without what never changes its meaning: delimiters, ``\text``, ``\left``,
    spaces, a final period, and in plain words the case.

    >>> normalise_math(r"$\text{Monday}$."), normalise_math(r"\left( 1, \dfrac{1}{2} \right)")
    ('monday', '(1,\\frac{1}{2})')
    """
    text = _TEXT_COMMAND.sub(r"\1", _DELIMITERS.sub("", text))
    text = re.sub(r"\\(?:left|right)(?![a-zA-Z])|\\[,;:! ]|\\\$", "", text)
    text = re.sub(r"\\[dt]frac(?![a-zA-Z])", r"\\frac", text)
    text = re.sub(r"\s+", "", text).removesuffix(".")
    if re.fullmatch(r"\([A-Za-z]\)", text):  # a choice: (B) is B
        return text[1]
    return text.lower() if re.fullmatch(r"[A-Za-z,'-]{2,}", text) else text


@functools.lru_cache(maxsize=4096)
def is_same_math(gold: str, answer: str) -> bool:
    """Say whether math-verify finds the answer equal to the gold one; False when that takes longer
    than ``COMPARISON_TIMEOUT_S``. Raises GradingError when math-verify cannot be started."""
    return _WORKER.compare(gold, answer)


def compare_math(gold: str, answer: str) -> bool:
    """The comparison itself, in this process and without a limit of time (the worker's part)."""
    from math_verify import LatexExtractionConfig, parse, verify

    missing = _count_braces(gold, "{") - _count_braces(gold, "}")
    gold += "}" * missing  # a few golds of Omni-MATH lack their last brace
    texts = [_prepare(gold), _prepare(answer)]
    if None in texts:
        return False
    config = [LatexExtractionConfig(boxed_match_priority=0)]
    parsed = [parse(f"\\boxed{{{text}}}", config, parsing_timeout=None) for text in texts]
    return all(parsed) and bool(verify(*parsed, timeout_seconds=None))


def run_worker(timeout_s: float) -> None:
    """Answer one comparison per line of standard input until it closes; end the process when one
    takes longer than ``timeout_s`` seconds."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    compare_math("x + 1", "1 + x")  # imports, also those that sympy does late
    _send("ready")
    with open(os.devnull, "w") as nowhere:
        for line in sys.stdin:
            gold, answer = json.loads(line)
            faulthandler.dump_traceback_later(timeout_s, exit=True, file=nowhere)
            try:
                same = compare_math(gold, answer)
            except Exception:  # whatever sympy makes of an answer, the reply is wrong
                same = False
            faulthandler.cancel_dump_traceback_later()
            _send(same)


def _count_braces(text: str, brace: str) -> int:
    return text.count(brace) - text.count("\\" + brace)


def _send(reply: str | bool) -> None:
    sys.stdout.write(json.dumps(reply) + "\n")
    sys.stdout.flush()


def _prepare(text: str) -> str | None:
    """Return the formula in an answer, ready to be boxed, or None when its braces do not match."""
    formulas = [first or second for first, second in _FORMULA.findall(text)]
    text = formulas[0] if len(formulas) == 1 else _DELIMITERS.sub("", text)
    text = _TRAILING_WORDS.sub(r" \\text{ \1}", text.strip().removesuffix("."))
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", text):
        depth += 1 if brace == "{" else -1
        if depth < 0:
            return None
    return text if depth == 0 and text else None


class _Worker:
    """The process that runs math-verify; one question at a time."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0

    def compare(self, gold: str, answer: str) -> bool:
        with self._lock:
            try:
                for _ in range(2):  # a process that something else has killed gets a successor
                    if self._process is None or self._owner != os.getpid():
                        self._start()
                    reply = self._exchange(json.dumps([gold, answer]))
                    if reply is not None:
                        return reply is True
                    if self._stop() == _WATCHDOG_EXIT:
                        break
            except BaseException:
                self._stop()  # else its late reply would answer the next question
                raise
            return False

    def _exchange(self, line: str | None) -> object:
        """Send a line, if any, and return the reply; None when the process has ended."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            if line is not None:
                process.stdin.write(line + "\n")
                process.stdin.flush()
            reply = process.stdout.readline()
        except OSError:
            return None
        return json.loads(reply) if reply.endswith("\n") else None

    def _start(self) -> None:
        code = _WORKER_CODE.format(timeout_s=self._timeout_s)
        paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        self._owner = os.getpid()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", code],  # -P: no module from the current folder
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        )
        atexit.register(self._stop)
        if self._exchange(None) != "ready":
            raise GradingError(
                f"the process that runs math-verify did not start ({sys.executable}): check that "
                "`python -c 'import math_verify'` works"
            )

    def _stop(self) -> int | None:
        process, self._process = self._process, None
        atexit.unregister(self._stop)
        if process is None or self._owner != os.getpid():
            return None
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(OSError):
            process.stdin.close()  # a worker that waits for its next line ends by itself
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=2.0)
        process.kill()
        process.wait()
        process.stdout.close()
        return process.returncode


_WORKER = _Worker(COMPARISON_TIMEOUT_S)
