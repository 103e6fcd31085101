"""A FAKE of `vllm serve`, for machines without a GPU: it speaks vLLM's protocol and computes nothing like it.

The forms of requests and answers are written down from vLLM's own sources (`entrypoints/openai/completion`).
As a program it is scripted: it says the numbers 10, 11, 12, … and misbehaves as `FAKE_VLLM` asks. In a test's
own process `serving` puts any source of chunks behind the same protocol.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FIELDS = {
    "model", "prompt", "max_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty",
    "presence_penalty", "frequency_penalty", "min_tokens", "ignore_eos", "stop_token_ids", "return_token_ids",
    "return_tokens_as_token_ids", "stream", "stream_options", "seed", "logit_bias", "logprobs", "echo",
    "structured_outputs",
}  # fmt: skip
"""Of vLLM's CompletionRequest, those that the engine sends; vLLM itself lets any others pass unseen."""

Chunks = Callable[[dict[str, Any]], Iterator[dict[str, Any]]]
"""A request's body in, `choices[0]` of each chunk out, and at last `{"usage": …}`."""


def handler(chunks: Chunks, key: str | None) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.answer(200 if self.path == "/health" else 404, b"")

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if self.path != "/v1/completions":
                self.refuse(404, "Not Found")
            elif key is not None and self.headers["authorization"] != f"Bearer {key}":
                self.refuse(401, "Unauthorized")
            elif problem := problem_of(body):
                self.refuse(400, problem)
            else:
                self.stream(body)

        def stream(self, body: dict[str, Any]) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/event-stream; charset=utf-8")
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            shared = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": body["model"]}
            source = chunks(body)
            try:
                for chunk in source:
                    usage = chunk.pop("usage", None)
                    choices = [] if usage else [{"index": 0, "text": "", **chunk}]
                    self.event(
                        json.dumps(shared | {"choices": choices} | ({"usage": usage} if usage else {}))
                    )
                self.event("[DONE]")
                self.wfile.write(b"0\r\n\r\n")
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True
            finally:
                source.close()  # type: ignore[attr-defined]

        def event(self, data: str) -> None:
            line = f"data: {data}\n\n".encode()
            self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
            self.wfile.flush()

        def refuse(self, status: int, message: str) -> None:
            error = {"message": message, "type": "BadRequestError", "param": None, "code": status}
            self.answer(status, json.dumps({"error": error}).encode())

        def answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def problem_of(body: dict[str, Any]) -> str | None:
    """What vLLM's own validation would say, of what an engine could get wrong."""
    if unknown := set(body) - FIELDS:
        return f"unknown fields {unknown}"
    if body["max_tokens"] < 1 and not body.get("echo"):
        return "max_tokens must be at least 1"
    if body["min_tokens"] > body["max_tokens"]:
        return "min_tokens must be less than or equal to max_tokens"
    if not -(2**63) <= body.get("seed", 0) < 2**63:
        return "seed is out of range"
    return None


@contextmanager
def serving(chunks: Chunks) -> Iterator[str]:
    """The fake in this process; its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(chunks, None))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class RunningFake:
    """A `Child` that is there already."""

    key = "none"

    def __init__(self, url: str) -> None:
        self._url = url

    async def start(self) -> str:
        return self._url

    async def ended(self) -> str:
        import asyncio

        await asyncio.Event().wait()
        raise AssertionError

    async def stop(self) -> None:
        pass


def numbers(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """10, 11, 12, …; after 13 whatever `FAKE_VLLM` asks for."""
    asked = os.environ.get("FAKE_VLLM", "")
    prompt = body["prompt"]
    count = body["max_tokens"]
    for number in range(count):
        if number == 3 and "crash" in asked and prompt[0] == 1:
            os._exit(7)
        if "slow" in asked:
            time.sleep(0.05)
        last = number == count - 1
        yield {
            "text": f"<{10 + number}>",
            "token_ids": [10 + number],
            "logprobs": None,
            "finish_reason": "length" if last else None,
            "stop_reason": None,
        }
    yield {
        "usage": {
            "prompt_tokens": len(prompt),
            "completion_tokens": count,
            "total_tokens": len(prompt) + count,
        }
    }


def main() -> None:
    asked = os.environ.get("FAKE_VLLM", "")
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("model")
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--served-model-name")
    for flag in ("--tensor-parallel-size", "--pipeline-parallel-size", "--max-num-seqs", "--max-model-len"):
        parser.add_argument(flag, type=int)
    parser.add_argument("--dtype")
    parser.add_argument("--gpu-memory-utilization", type=float)
    parser.add_argument("--generation-config")
    parser.add_argument("--enable-prompt-tokens-details", action="store_true")
    options = parser.parse_args()
    print(f"INFO: (fake) vLLM with {vars(options)}", flush=True)
    if "refuse" in asked:
        print("RuntimeError: No CUDA GPUs are available", flush=True)
        sys.exit(1)
    if "stubborn" in asked:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "worker" in asked:  # an engine process of its own, as vLLM has one a GPU
        worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        print(f"worker {worker.pid}", flush=True)
    if pids := os.environ.get("FAKE_VLLM_PIDS"):
        with open(pids, "a", encoding="utf-8") as file:
            file.write(f"{os.getpid()}\n" + (f"{worker.pid}\n" if "worker" in asked else ""))
    if "late" in asked:
        time.sleep(600)
    server = ThreadingHTTPServer((options.host, options.port), handler(numbers, os.environ["VLLM_API_KEY"]))
    server.serve_forever()


if __name__ == "__main__":
    main()
