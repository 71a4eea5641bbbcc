"""Named errors. Every message says what was wrong, the value, and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from routerlib.records import Completion


class RouterlibError(Exception):
    """Base of all errors that routerlib raises on purpose."""


class BenchmarkError(RouterlibError):
    """A benchmark file or row is missing or malformed."""


class MissingGeneratorError(BenchmarkError):
    """Problems must be generated and the package that does it is not installed."""


class GradingError(RouterlibError):
    """A gold answer cannot be read, so no reply can be graded against it."""


class ModelError(RouterlibError):
    """A model call failed for good (bad request, unusable answer, retries used up).

    ``doubtful_tries`` counts the tries of the call that may have been billed: those that were
    answered without counts of tokens, or of which nobody knows whether they were answered. It is 0
    for a call that was never sent. ``billed`` is the answer that cannot be used, for what it took,
    where the server counted that. ``status_code`` is the HTTP status of a server that refused the
    request, else None.
    """

    doubtful_tries: int = 0
    billed: Completion | None = None
    status_code: int | None = None


class ModelFileError(RouterlibError):
    """The file of the user's models is missing, malformed, or says what cannot be."""


class TransientModelError(ModelError):
    """A model call failed in a way that may pass (timeout, 429, 5xx, closed connection)."""


class StepRefusedError(ModelError):
    """A model's answer is not the one new step, or the rest, that was asked for."""


class JudgementError(ModelError):
    """A judge's reply holds no answer to its question."""


class WeightsError(RouterlibError):
    """Model weights are missing or their SHA-256 is not the official one."""


class ServerError(RouterlibError):
    """A local model server could not be started or died."""


class StoreError(RouterlibError):
    """The trace store is inconsistent."""


class SchemaVersionError(StoreError):
    """The store was written with another schema version."""


class CorruptFileError(StoreError):
    """A Parquet file is truncated or unreadable."""


class ManifestMismatchError(StoreError):
    """Files on disk are not the ones that the manifest describes."""


class SpendingCapError(RouterlibError):
    """The next call might cost more than is left."""


class UnpricedModelError(RouterlibError):
    """A cost lens needs a price that the model does not have."""


class OffRecordError(RouterlibError):
    """A policy reached a state whose next step was never recorded."""


class HiddenFieldError(RouterlibError):
    """A policy asked for an observation field that its protocol hides."""


class CalibrationError(RouterlibError):
    """No threshold can meet the target with the calibration problems at hand."""


class NotebookError(RouterlibError):
    """A notebook has an unknown parameter, a wrong shape, or failed."""


def get_first_error(error: BaseException) -> BaseException:
    """Return the first error of a group (of tasks: the one that cancelled the others), else the
    error itself."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def make_printable(text: str) -> str:
    r"""Return what a server or a model said without what would move a terminal's cursor or colour
    it: control characters but line ends become spaces.

    >>> make_printable("no\x1b[31m red\nhere")
    'no [31m red\nhere'
    """
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)
