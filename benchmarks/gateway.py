"""The gateway: our server in front of an upstream, against the LiteLLM proxy in front of the same one.

The upstream is a mock that answers at once. Both gateways are one worker process with a key to check, ours
with limits a minute to hold. The same generator asks both in turn. Compared are:

  requests      requests a second, 32 connections
  streams       streamed answers a second, 32 connections
  added         median milliseconds that a gateway adds at one connection
  stream_added  likewise, up to the first event of a streamed answer

LiteLLM needs a virtual environment of its own; without --litellm it is left out:

  python3 -m venv /tmp/litellm-venv && /tmp/litellm-venv/bin/pip install 'litellm[proxy]==1.83.0'
  python benchmarks/gateway.py --litellm /tmp/litellm-venv/bin/litellm
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
from _harness import Result, interleaved, options, report
from _http_load import Seen, load
from _served import TINY, make_bundle

CONNECTIONS = 32
KEY = "sk-bench-0123456789"
BODY = {
    "model": "gpt",
    "messages": [
        {"role": "system", "content": "You answer in one short sentence."},
        {"role": "user", "content": "What is a platen, and what did printers do with it? " * 4},
    ],
    "max_tokens": 64,
}
STREAMED = BODY | {"stream": True}


@dataclass(frozen=True)
class Gateway:
    port: int
    key: str | None

    def load(self, body: dict[str, object], connections: int, seconds: float) -> Seen:
        return load(self.port, body, connections=connections, seconds=seconds, key=self.key)


# -- processes -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def process(
    command: list[str], *, stdout: int = subprocess.PIPE, **environment: str
) -> Iterator[subprocess.Popen[str]]:
    started = subprocess.Popen(
        command,
        stdout=stdout,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | environment,
    )
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.wait(timeout=20)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


@contextlib.contextmanager
def mock_upstream() -> Iterator[int]:
    """The mock's port."""
    with process([sys.executable, str(Path(__file__).with_name("_http_load.py"))]) as mock:
        assert mock.stdout is not None
        yield int(mock.stdout.readline())


@contextlib.contextmanager
def our_gateway(upstream_port: int, folder: Path) -> Iterator[Gateway]:
    """`platen serve` with a model too small to matter and the mock as its upstream."""
    from platen.core.state.embedded import EmbeddedState
    from platen.serve.access.keys import Grant, Limits
    from platen.serve.access.keystore import KeyStore

    limits = Limits(requests_per_minute=10**9, tokens_per_minute=10**12)
    _, key = KeyStore(EmbeddedState(folder)).create(Grant("bench", "bench", limits=limits))
    settings = {
        "port": 0,
        "keys": "required",
        "upstreams": [
            {
                "name": "gpt",
                "base_url": f"http://127.0.0.1:{upstream_port}/v1",
                "model": "mock-1",
                "api_key_env": "MOCK_API_KEY",
            }
        ],
    }
    command = [sys.executable, __file__, "--serve", json.dumps(settings), str(folder)]
    with process(command, MOCK_API_KEY="sk-mock") as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        yield Gateway(int(url.rpartition(":")[2]), key)


def serve_ours(settings: str, folder: Path) -> None:
    """In the process of our gateway: what `platen serve` runs."""
    from platen.core.state.embedded import EmbeddedState
    from platen.serve.access.layer import AccessControl
    from platen.serve.config import ServeConfig
    from platen.serve.server import serve_bundle

    config = ServeConfig.model_validate_json(settings)
    serve_bundle(
        folder,
        name="local",
        config=config,
        access=AccessControl(config, EmbeddedState(folder)),
        on_ready=lambda started: print(started.url, flush=True),
    )


@contextlib.contextmanager
def litellm_proxy(binary: Path, upstream_port: int, folder: Path) -> Iterator[Gateway]:
    config = {
        "model_list": [
            {
                "model_name": "gpt",
                "litellm_params": {
                    "model": "openai/mock-1",
                    "api_base": f"http://127.0.0.1:{upstream_port}/v1",
                    "api_key": "sk-mock",
                },
            }
        ],
        "general_settings": {"master_key": KEY},
    }
    file = folder / "litellm.yaml"
    file.write_text(json.dumps(config))  # JSON is YAML
    port = free_port()
    command = [str(binary), "--config", str(file), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--num_workers", "1", "--telemetry", "False"]
    quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    # It logs every request: a pipe that nobody reads would stop it when full.
    with process(command, stdout=subprocess.DEVNULL, **quiet) as proxy:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and proxy.poll() is None:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"http://127.0.0.1:{port}/health/liveliness", trust_env=False).is_success:
                    yield Gateway(port, KEY)
                    return
            time.sleep(0.2)
        raise RuntimeError("the LiteLLM proxy does not start")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# -- the comparisons -----------------------------------------------------------------------------------


def compare(gateways: dict[str, Gateway], mock: Gateway, *, seconds: float, rounds: int) -> list[Result]:
    for gateway in gateways.values():
        for body in (BODY, STREAMED):
            gateway.load(body, CONNECTIONS, 0.5)  # warm

    def added(gateway: Gateway, body: dict[str, object], value: Callable[[Seen], float]) -> float:
        direct = mock.load(body, 1, seconds / 4)
        return value(gateway.load(body, 1, seconds / 2)) - value(direct)

    measures: list[tuple[str, str, Callable[[Gateway], float]]] = [
        ("requests", "requests/s", lambda g: g.load(BODY, CONNECTIONS, seconds).per_second),
        ("streams", "answers/s", lambda g: g.load(STREAMED, CONNECTIONS, seconds).per_second),
        ("added", "ms", lambda g: added(g, BODY, lambda seen: seen.p50_ms)),
        ("stream_added", "ms", lambda g: added(g, STREAMED, lambda seen: seen.first_p50_ms)),
    ]
    results = []
    for name, unit, measure in measures:
        seen = interleaved(
            {who: functools.partial(measure, gateway) for who, gateway in gateways.items()}, rounds
        )
        ours = statistics.median(seen["ours"])
        if "litellm" not in seen:
            print(f"{name}: ours {ours:.4g} {unit}")
            continue
        peer = statistics.median(seen["litellm"])
        ratios = [
            theirs / mine if unit == "ms" else mine / theirs
            for mine, theirs in zip(seen["ours"], seen["litellm"], strict=True)
        ]
        results.append(
            Result(f"gateway_{name}", ours, peer, statistics.median(ratios), unit, "litellm", {"runs": seen})
        )
    return results


def main() -> None:
    parser = options(__doc__ or "")
    parser.add_argument("--litellm", type=Path, metavar="BIN", help="the peer's program; see above")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve_ours(args.serve[0], Path(args.serve[1]))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are stopped too
    if args.litellm is None:
        print("left out: LiteLLM (--litellm BIN; --help says how to install it)")
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        folder = Path(scratch)
        make_bundle(folder / "bundle", TINY)
        port = stack.enter_context(mock_upstream())
        gateways = {"ours": stack.enter_context(our_gateway(port, folder / "bundle"))}
        if args.litellm is not None:
            gateways["litellm"] = stack.enter_context(litellm_proxy(args.litellm, port, folder))
        seconds, rounds = (1.0, 1) if args.quick else (2.0, 3)
        results = compare(gateways, Gateway(port, None), seconds=seconds, rounds=rounds)
        report(results, json_file=args.json, quick=args.quick)


if __name__ == "__main__":
    main()
