"""Which problem belongs to which split: the hash of its id alone decides, for ever."""

from __future__ import annotations

import hashlib

SPLITS = ("pilot", "train", "calibration", "test")


def compute_rank(problem_id: str) -> str:
    """Return the hex digest whose order is the order of the problems in a split."""
    return hashlib.sha256(f"routerlib-split-v1:{problem_id}".encode()).hexdigest()


def compute_split(problem_id: str, file_split: str) -> str:
    """Return the split of a problem: ``test`` for a test file; of a train file 5% ``pilot`` (for
    tuning prompts only), 25% ``calibration`` and 70% ``train``, by the hash of the id."""
    if file_split == "test":
        return "test"
    share = int(compute_rank(problem_id)[:8], 16) / 2**32
    return "pilot" if share < 0.05 else "calibration" if share < 0.30 else "train"
