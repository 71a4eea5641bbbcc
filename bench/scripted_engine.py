"""A server that answers like a model engine, after a delay, without a model.

Invariants: the answer and the delay depend on nothing but the request, so two clients that ask the
same get the same; requests wait side by side, as in an engine that batches without end. Replies
carry the log-probabilities of every token with as many alternatives as were asked for, so that a
client has as much to read as from a real engine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

_HEADER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"

LINES = 6
"""Lines of a solution, the answer included."""


@contextlib.contextmanager
def serve_scripted(delay_s: float) -> Iterator[str]:
    """Serve in a process of its own; the context holds the address, up to and with ``/v1``."""
    command = [sys.executable, "-m", "bench.scripted_engine", "--delay", str(delay_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.terminate()


def build_reply(body: dict[str, Any]) -> dict[str, Any]:
    """Return the reply to a request: the next line, or all further ones without a stop text."""
    messages = body["messages"]
    prefix = messages[-1]["content"] if messages[-1]["role"] == "assistant" else ""
    problem = messages[-2 if prefix else -1]["content"]
    first = prefix.count("\n")
    lines = [_write_line(body["model"], problem, number) for number in range(first, LINES)]
    is_step = bool(body.get("stop")) and len(lines) > 1
    text = lines[0] if is_step else "\n".join(lines)
    tokens = text.split(" ")
    alternatives = [
        {"token": f"word{rank}", "logprob": -0.1 - rank, "bytes": [119, 111, 114, 100, 48 + rank]}
        for rank in range(body["top_logprobs"])
    ]
    content = [
        {"token": token, "logprob": -0.1, "bytes": None, "top_logprobs": alternatives}
        for token in tokens
    ]
    return {
        "id": "chatcmpl-scripted",
        "model": body["model"],
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "logprobs": {"content": content},
                "finish_reason": "stop",
                "stop_reason": "\n" if is_step else None,
            }
        ],
        "usage": {
            "prompt_tokens": sum(len(message["content"].split()) for message in messages),
            "completion_tokens": len(tokens),
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    }


def _write_line(model: str, problem: str, number: int) -> str:
    """One of two lines, so that two models agree on about half of them."""
    if number == LINES - 1:
        return f"Answer: {random.Random(problem).randrange(100)}"
    chosen = random.Random(f"{model} {problem} {number}").randrange(2)
    total = 10 * number + chosen
    return f"In step {number} we add {total} to {number} apples and get {total + number} apples."


async def answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float
) -> None:
    """Answer the requests of one connection, one after the other."""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(head.partition("content-length:")[2].partition("\r\n")[0])
            request = await reader.readexactly(length)
            reply = json.dumps(build_reply(json.loads(request))).encode()
            # Answers come one by one, as those of an engine do, not all at the same instant.
            await asyncio.sleep(delay_s * random.Random(request).uniform(0.5, 1.5))
            writer.write(_HEADER % len(reply) + reply)
            await writer.drain()
    writer.close()


async def serve(delay_s: float) -> None:
    """Print the port, then answer until the process is ended."""
    server = await asyncio.start_server(lambda r, w: answer(r, w, delay_s), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--delay", type=float, required=True, help="mean seconds of an answer")
    asyncio.run(serve(parser.parse_args().delay))
