"""Documents a second through the blocks, beside datatrove's own with the same rules; memory; how both grow.

Text is what this machine has (`_texts.py`) in an order of chance, as often as it takes, each time cut
elsewhere. The peer is datatrove alone: its ftfy, symbol lines, decontamination, PII (e-mail, IP addresses),
MinHash (four stages), Gopher and FineWeb rules, its JSON lines readers and writers, uncompressed. It gets
a tokenizer that only parts at blanks, as our rules do: its default one needs spaCy and is slower. The rules
come last, for they drop most of this text. Both use as many local workers. Language identification, exact
duplicates and C4 are left out: datatrove's need a download, four more stages, or split sentences with spaCy.
Each run is a process of its own; memory is its highest, or the highest of any worker.

Linearity is ours alone, on every fourth document and on all of them; the few are run before and after.

    python benchmarks/data.py
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

from _harness import Result, options, peak_memory, report
from _texts import machine_texts

from platen.data.sources import Document

SHARD = 4_000_000
RULES = ("gopher_quality", "gopher_repetition", "fineweb")
BENCHMARK = [" ".join(f"item{n} word{place}" for place in range(15)) for n in range(2_000)]


def corpus(characters: int) -> Iterator[Document]:
    """About so much text in documents of 2,000 to 20,000 characters."""
    room, number = characters, 0
    for turn in range(1, 100):
        for document in machine_texts(seed=1):
            at = 0
            while at < len(document.text):
                size = 2_000 + 1_000 * (number * 7919 * turn % 18)
                text = document.text[at : at + size]
                yield Document(f"{number:08}", text, "")
                at, number, room = at + size + 37 * turn, number + 1, room - len(text)
                if room <= 0:
                    return


def write(folder: Path, documents: Iterable[Document]) -> tuple[int, int]:
    """Write JSON lines in files of 4 million characters; return documents and files."""
    count, files, room = 0, 0, 0
    out = None
    for document in documents:
        if room <= 0:
            if out:
                out.close()
            out, room, files = (folder / f"{files:05}.jsonl").open("w", encoding="utf-8"), SHARD, files + 1
        assert out
        out.write(json.dumps({"id": document.id, "text": document.text}) + "\n")
        room -= len(document.text)
        count += 1
    if out:
        out.close()
    return count, files


def ours(folder: Path, work: Path, workers: int) -> int:
    """Our blocks; returns how many documents came out."""
    from platen.data.filters.config import FiltersConfig
    from platen.data.filters.run_blocks import Filters

    benchmark = work / "benchmark.jsonl"
    benchmark.write_text("".join(json.dumps({"text": item}) + "\n" for item in BENCHMARK))
    blocks: list[dict[str, object]] = [
        {"block": "encoding", "unescape_html": True},
        {"block": "markup"},
        {"block": "contamination", "against": [str(benchmark)]},
        {"block": "pii", "kinds": ["email", "ip"]},
        {"block": "near_duplicates"},
        *({"block": name} for name in RULES),
    ]
    config = FiltersConfig.model_validate({"blocks": blocks, "workers": workers})

    def documents() -> Iterator[Document]:
        for file in sorted(folder.glob("*.jsonl")):
            with file.open(encoding="utf-8") as lines:
                for record in map(json.loads, lines):
                    yield Document(record["id"], record["text"], "")

    count = 0
    with (work / "out.jsonl").open("w", encoding="utf-8") as out:
        for passed in Filters(config, work, work / "between", seed=1).run(documents()):
            out.write(json.dumps({"id": passed.document.id, "text": passed.document.text}) + "\n")
            count += 1
    return count


def peer(folder: Path, work: Path, workers: int) -> int:
    """datatrove's; returns how many documents came out."""
    import numpy as np
    from _words import Blanks
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline import dedup, filters, formatters
    from datatrove.pipeline.decont import NGramsDecontConfig, NGramsDecontFilter
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter
    from datatrove.utils.text import ngrams, simplify_text
    from loguru import logger

    logger.disable("datatrove")
    words, settings = Blanks(), NGramsDecontConfig(n_grams=13)
    decontaminate = NGramsDecontFilter(str(work / "index"), settings, language=words)
    hashes = {
        decontaminate.hash_func(" ".join(gram))
        for item in BENCHMARK
        for gram in ngrams(words.word_tokenize(simplify_text(item, settings.norm_config)), 13)
    }
    (work / "index").mkdir()
    np.array(list(hashes), np.uint64).tofile(work / "index" / "ours.index.hashes")
    tasks = len(list(folder.glob("*.jsonl")))

    def run(name: str, steps: list[object], tasks: int) -> None:
        logs = str(work / f"logs-{name}")
        LocalPipelineExecutor(steps, tasks=tasks, workers=min(workers, tasks), logging_dir=logs).run()

    def written(name: str) -> JsonlWriter:
        return JsonlWriter(str(work / name), compression=None, output_filename="${rank}.jsonl")

    run(
        "text",
        [
            JsonlReader(str(folder), compression=None),
            formatters.FTFYFormatter(),
            formatters.SymbolLinesFormatter(),
            decontaminate,
            formatters.PIIFormatter(),
            written("passed"),
        ],
        tasks,
    )
    minhash = dedup.MinhashConfig()
    passed, places = (
        str(work / "passed"),
        {name: str(work / name) for name in ("signatures", "buckets", "removed")},
    )
    signing = dedup.MinhashDedupSignature(places["signatures"], minhash, language=words)
    run("signatures", [JsonlReader(passed, compression=None), signing], tasks)
    bucketing = dedup.MinhashDedupBuckets(places["signatures"], places["buckets"], config=minhash)
    run("buckets", [bucketing], minhash.num_buckets)
    run("clusters", [dedup.MinhashDedupCluster(places["buckets"], places["removed"], config=minhash)], 1)
    filtering = dedup.MinhashDedupFilter(places["removed"])
    rules = (
        filters.GopherQualityFilter(language=words),
        filters.GopherRepetitionFilter(language=words),
        filters.FineWebQualityFilter(language=words),
    )
    run("rules", [JsonlReader(passed, compression=None), filtering, *rules, written("out")], tasks)
    return sum(sum(1 for _ in file.open("rb")) for file in (work / "out").glob("*.jsonl"))


SIDES: dict[str, Callable[[Path, Path, int], int]] = {"ours": ours, "peer": peer}


def measured(side: str, folder: Path, workers: int) -> dict[str, float]:
    """Seconds, documents out and megabytes of one side, in a process of its own."""
    command = [sys.executable, __file__, "--side", side, "--folder", str(folder), "--workers", str(workers)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def run_side(side: str, folder: Path, workers: int) -> None:
    """Print the figures of one side as JSON."""
    with tempfile.TemporaryDirectory() as work:
        began = time.perf_counter()
        kept = SIDES[side](folder, Path(work), workers)
        seconds = time.perf_counter() - began
    highest = max(peak_memory(), 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    print(json.dumps({"seconds": seconds, "kept": kept, "megabytes": highest / 2**20}))


def main() -> None:
    parser = options(__doc__ or "")
    parser.add_argument("--megabytes", type=float, help="millions of characters (default: 200; quick: 8)")
    parser.add_argument("--workers", type=int, default=1, help="processes on either side (default: 1)")
    parser.add_argument("--only", choices=("peer", "growth"), help="one of the two comparisons")
    parser.add_argument("--side", choices=tuple(SIDES), help="one side, for a process of its own")
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    if arguments.side:
        run_side(arguments.side, arguments.folder, arguments.workers)
        return
    size = int(1e6 * (arguments.megabytes or (8 if arguments.quick else 200)))
    results = []
    with tempfile.TemporaryDirectory() as parent:
        whole, quarter = Path(parent) / "whole", Path(parent) / "quarter"
        whole.mkdir()
        quarter.mkdir()
        count, _ = write(whole, corpus(size))
        fewer, _ = write(quarter, islice(corpus(size), 0, None, 4))
        growing = arguments.only != "peer"
        small = [measured("ours", quarter, arguments.workers)] if growing else []
        mine = measured("ours", whole, arguments.workers)
        if arguments.only != "growth":
            other = measured("peer", whole, arguments.workers)
            rates = count / mine["seconds"], count / other["seconds"]
            details: dict[str, object] = {"documents": count, "ours": mine, "peer": other}
            results.append(
                Result(
                    "documents_per_second", *rates, rates[0] / rates[1], "documents/s", "datatrove", details
                )
            )
            sizes = mine["megabytes"], other["megabytes"]
            results.append(Result("peak_memory", *sizes, sizes[1] / sizes[0], "MB", "datatrove"))
        if growing:
            small.append(measured("ours", quarter, arguments.workers))
            seconds = statistics.mean(run["seconds"] for run in small)
            each = seconds / fewer * 1e3, mine["seconds"] / count * 1e3
            growth: dict[str, object] = {"quarter": small, "whole": mine, "documents": [fewer, count]}
            results.append(
                Result(
                    "ms_per_document_all_to_quarter", each[1], each[0], each[1] / each[0], "ms", "", growth
                )
            )
            sizes = mine["megabytes"], small[0]["megabytes"]
            results.append(Result("memory_all_to_quarter", *sizes, sizes[0] / sizes[1], "MB"))
    for result in results:
        print(result.name, json.dumps(result.details))
    report(results, json_file=arguments.json, quick=arguments.quick)


if __name__ == "__main__":
    main()
