"""A process that serves the invented models, and one that records them as often as it is told.

``python recording_process.py serve LOG`` prints its address. It appends a JSON line [run, model,
problem text, prefix] to LOG for every request before it answers; the run is the first part of the
address that was asked. ``python recording_process.py record`` reads JSON lines [store, address,
run, problems] and for each starts a child, prints the child's process id and, after an empty
line, waits for its end and prints its exit status (until then no other process can have its id);
so the costly imports are made once, and a child can be killed at any
moment of a recording.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import traceback
from pathlib import Path

CONCURRENCY = 3
MODEL_IDS = ("small", "large")
ANSWER_S = 0.004


def say(value: object) -> None:
    sys.stdout.write(f"{value}\n")
    sys.stdout.flush()


def serve(log: Path) -> None:
    from invented import write_invented
    from scripted_server import Handler, ScriptedServer, answer_with
    from tiny_models import read_asked

    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def answer(handler: Handler) -> None:
        request, model_id = handler.read_request(), handler.body["model"]
        run = handler.path.split("/")[1]
        os.write(file, json.dumps([run, model_id, *read_asked(request)]).encode() + b"\n")
        time.sleep(ANSWER_S)
        index = MODEL_IDS.index(model_id)
        answer_with(lambda request: write_invented(index, *read_asked(request)))(handler)

    class Server(ScriptedServer):
        def handle_error(self, *_: object) -> None:
            """Stay silent: clients are killed in mid-request."""

    server = Server()
    server.acts = [answer]
    say(f"http://127.0.0.1:{server.server_port}")
    server.serve_forever()


def record_each() -> None:
    import openai  # noqa: F401  # the client imports it at its first call

    import routerlib.collect  # noqa: F401

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                asyncio.run(record(*json.loads(line)))
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        say(child)
        sys.stdin.readline()
        say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


async def record(root: str, address: str, run: str, problems: int) -> None:
    from invented import make_invented_problems
    from tiny import make_card

    from routerlib.collect import Collector, make_run
    from routerlib.models.openai_compatible import OpenAICompatibleModel
    from routerlib.plans import CollectConfig
    from routerlib.store import TraceWriter

    config = CollectConfig(depth=2, concurrency=CONCURRENCY, chunk_problems=7)
    models = [OpenAICompatibleModel(name, f"{address}/{run}/v1", name) for name in MODEL_IDS]
    with TraceWriter(Path(root), flush_rows=5, flush_seconds=1e9) as writer:
        cards = [make_card(model_id) for model_id in MODEL_IDS]
        collector = Collector(models, cards, writer, config)
        await collector.collect(
            make_invented_problems(problems), make_run(config, models, "gsm8k", "test")
        )
    for model in models:
        await model.aclose()


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(Path(sys.argv[2]))
    else:
        record_each()
