"""Trained policies on disk, found again by what made them.

The key of a policy is a hash of the recorded data, of the trainer's name and arguments, of the
source code that training runs and of the versions of the libraries below it. Whatever changes one
of them trains anew; deleting the folder trains everything anew.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields, is_dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from routerlib.costs import Lens
from routerlib.features import DecisionProtocol
from routerlib.lattice import Lattice
from routerlib.policies import Policy, load_policy, save_policy
from routerlib.policies.ranking import RankedPolicy
from routerlib.train.ensemble import rank_ensemble

PACKAGE = Path(__file__).parents[1]
SOURCES = ("train", "policies", "features", "lattice", "env", "costs.py")
LIBRARIES = ("numpy", "torch", "scikit-learn")


class PolicyCache:
    """Trains a policy, or reads the one that the same ingredients gave before.

    >>> cache = PolicyCache(Path("build/policy-cache"))  # doctest: +SKIP
    >>> cache.train(train_exact, lattice, ExactConfig(), lens, "before", 0)  # doctest: +SKIP
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._environment = _hash_environment()
        self._hashes: dict[int, tuple[object, str]] = {}
        self._pool: ProcessPoolExecutor | None = None

    def train(
        self, trainer: Callable[..., Policy], data: object, *args: object, **options: object
    ) -> Policy:
        """Return ``trainer(data, *args, **options)``; ``data`` (a lattice, rollouts) and arguments
        are numbers, strings, arrays, dataclasses or collections of such. TypeError for others, for
        they cannot be compared."""
        path = self._get_path(trainer, data, *args, **options)
        if path.exists():
            return load_policy(path)
        policy = trainer(data, *args, **options)
        unfinished = path.with_suffix(".tmp")
        save_policy(policy, unfinished)
        unfinished.replace(path)
        return policy

    def train_all(self, calls: Sequence[tuple[Any, ...]]) -> list[Policy]:
        """Return the policy of each call, (trainer, data, *args) as ``train`` takes them.

        What is not there yet is trained in processes of their own, one for each processor, with
        as many torch threads as here, so that the policies are the same as trained one by one.
        """
        paths = {self._get_path(*call): call for call in calls}
        missing = [call for path, call in paths.items() if not path.exists()]
        if len(missing) > 1:
            n_threads = torch.get_num_threads()
            started = [
                self._get_pool().submit(_train_into, self.folder, n_threads, *call)
                for call in missing
            ]
            for training in started:
                training.result()
        return [self.train(*call) for call in calls]

    def train_seeds(
        self,
        trainer: Callable[..., Policy],
        lattice: Lattice,
        config: object,
        lens: Lens,
        protocol: DecisionProtocol,
        *,
        seeds: Sequence[int],
        name: str,
    ) -> tuple[RankedPolicy, tuple[Policy, ...]]:
        """Train once with each seed. Returns the ranked mean of all, and each one alone.

        What is not there yet is trained side by side, as ``train_all`` does.
        """
        members = tuple(
            self.train_all([(trainer, lattice, config, lens, protocol, seed) for seed in seeds])
        )
        return rank_ensemble(name, members, lattice, lens, protocol), members

    def compute_key(
        self, trainer: Callable[..., Policy], data: object, *args: object, **options: object
    ) -> str:
        """Return the hash that names a policy's file: 32 hexadecimal digits."""
        digest = hashlib.sha256(self._environment)
        digest.update(f"{trainer.__module__}.{trainer.__qualname__}".encode())
        digest.update(self._hash_data(data).encode())
        for part in (*_describe(args), *_describe(options)):
            digest.update(part + b"\0")
        return digest.hexdigest()[:32]

    def _get_path(
        self, trainer: Callable[..., Policy], data: object, *args: object, **options: object
    ) -> Path:
        return self.folder / f"{self.compute_key(trainer, data, *args, **options)}.pt"

    def _get_pool(self) -> ProcessPoolExecutor:
        """The processes, started when they are first wanted; they end with this one."""
        if self._pool is None:
            context = multiprocessing.get_context("spawn")  # a fork of torch's threads may hang
            self._pool = ProcessPoolExecutor(os.cpu_count() or 1, mp_context=context)
        return self._pool

    def _hash_data(self, data: object) -> str:
        """Hash data once; it is kept, so that its id stays its own."""
        if id(data) not in self._hashes:
            digest = hashlib.sha256()
            for part in _describe(data):
                digest.update(part + b"\0")
            self._hashes[id(data)] = (data, digest.hexdigest())
        return self._hashes[id(data)][1]


def _train_into(
    folder: Path, n_threads: int, trainer: Callable[..., Policy], data: object, *args: object
) -> None:
    """Train one policy into the folder: what a process of its own does."""
    torch.set_num_threads(n_threads)
    PolicyCache(folder).train(trainer, data, *args)


def _hash_environment() -> bytes:
    """Hash the code and the libraries that training runs."""
    digest = hashlib.sha256()
    for name in SOURCES:
        source = PACKAGE / name
        for path in sorted(source.rglob("*.py")) if source.is_dir() else [source]:
            digest.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0")
            digest.update(path.read_bytes())
    for library in LIBRARIES:
        digest.update(f"{library}=={version(library)}\0".encode())
    return digest.digest()


def _describe(value: object) -> Iterator[bytes]:
    """Yield bytes that differ wherever two values differ."""
    if value is None or isinstance(value, bool | int | float | str):
        yield f"{type(value).__name__} {value!r}".encode()
    elif isinstance(value, np.ndarray):
        yield f"array {value.dtype} {value.shape}".encode()
        yield np.ascontiguousarray(value).tobytes()
    elif is_dataclass(value) and not isinstance(value, type):
        yield type(value).__qualname__.encode()
        for field in fields(value):
            yield field.name.encode()
            yield from _describe(getattr(value, field.name))
    elif isinstance(value, Mapping):
        yield f"mapping {len(value)}".encode()
        for key in value:
            yield from _describe(key)
            yield from _describe(value[key])
    elif isinstance(value, Sequence):
        yield f"sequence {len(value)}".encode()
        for item in value:
            yield from _describe(item)
    else:
        raise TypeError(
            f"{value!r} is a {type(value).__name__}, which cannot be told from another: a cached "
            "trainer takes numbers, strings, arrays, dataclasses and collections of them"
        )
