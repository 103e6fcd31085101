"""`platen baselines`: the classic models on one's own text."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from platen.core.errors import ConfigError
from platen.core.outputs import check_folder, check_new_folder

if TYPE_CHECKING:
    from rich.console import Console

    from platen.baselines.comparison.run_comparison import Comparison

app = typer.Typer(no_args_is_help=True)

CorpusArgument = Annotated[
    list[str], typer.Argument(help="Text files, folders or globs; .jsonl has texts too.")
]


@app.callback()
def _group() -> None:
    """The classic models: what everything larger is measured against.

    Examples:

      platen baselines compare corpus/*.txt

      platen baselines ngram corpus --out filter-model

      platen baselines vectors corpus --out word-vectors

      platen baselines draft tokens --out draft-model
    """


@app.command("compare")
def compare(
    corpus: CorpusArgument,
    out: Annotated[Path, typer.Option(help="Folder for the table, JSON and plot.")] = Path("baselines"),
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps of each network.")] = 600,
    seconds: Annotated[float, typer.Option(min=0.1, help="Training time of each network at most.")] = 60.0,
    size: Annotated[int, typer.Option(min=8, max=4096, help="Width of the networks; a multiple of 8.")] = 128,
    vocab_size: Annotated[int, typer.Option(min=259, max=65_536, help="Tokens in the vocabulary.")] = 1024,
    max_bytes: Annotated[int, typer.Option(min=10_000, help="Characters read in all, at most.")] = 5_000_000,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same losses.")] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the measurements as JSON, nothing else.")
    ] = False,
) -> None:
    """Train the ladder of models on a text, from a bag of words to Llama: loss, size and speed of each.

    The last tenth of each file is held out. Losses are bits per byte of it, so that they can be compared with
    those of any other model, whatever its tokens. With several files, classifiers guess each passage's.

    Examples:

      platen baselines compare corpus/*.txt

      platen baselines compare novel.txt --steps 1000 --seconds 300 --out ladder
    """
    from platen.engines.threads import prepare_process

    prepare_process()
    from rich.console import Console

    from platen.baselines.comparison.comparison_report import write_report
    from platen.baselines.comparison.corpus import read_corpus
    from platen.baselines.comparison.networks import NetworkOptions
    from platen.baselines.comparison.run_comparison import compare as run
    from platen.cli.console import ConsoleObserver
    from platen.data.readers.needs import needs

    if size % 8:
        raise ConfigError(f"--size is {size}, not a multiple of 8", hint="for example --size 128")
    check_folder(out)
    needs("matplotlib", "the comparison's plot", "bench")
    console = Console(highlight=False, quiet=as_json)
    observer = ConsoleObserver(console)
    read = read_corpus(corpus, vocab_size=vocab_size, max_bytes=max_bytes)
    options = NetworkOptions(size=size, steps=steps, seconds=seconds, seed=seed)
    comparison = run(read, options, observer)
    write_report(comparison, out)
    if as_json:
        typer.echo(json.dumps(asdict(comparison), indent=2))
    else:
        _show(comparison, console)
        console.print(f"report  {out / 'comparison.md'}", markup=False, soft_wrap=True)


def _show(comparison: Comparison, console: Console) -> None:
    from rich.table import Table

    from platen.baselines.comparison.comparison_report import loss_cell, name_cell
    from platen.cli.console import human_count, human_size

    table = Table(box=None)
    table.add_column("model", no_wrap=True)
    for heading in ("bits per byte", "parameters", "size", "training tokens/s", "scoring tokens/s"):
        table.add_column(heading, justify="right")
    for row in comparison.models:
        table.add_row(
            name_cell(row),
            loss_cell(row),
            human_count(row.numbers),
            human_size(row.size_bytes),
            human_count(row.train_tokens_per_second),
            human_count(row.tokens_per_second),
        )
    console.print(table)
    if comparison.classifiers:
        table = Table(box=None)
        table.add_column("which file is a passage from?")
        for heading in ("accuracy", "passages/s"):
            table.add_column(heading, justify="right")
        for guess in comparison.classifiers:
            table.add_row(name_cell(guess), f"{guess.accuracy:.1%}", human_count(guess.passages_per_second))
        console.print(table)


@app.command("ngram")
def ngram(
    corpus: CorpusArgument,
    out: Annotated[Path, typer.Option(help="Folder for the model.")],
    order: Annotated[int, typer.Option(min=1, max=16, help="Words of an n-gram, at most.")] = 5,
    min_count: Annotated[int, typer.Option(min=1, help="Rarer words become unknown.")] = 2,
    sample: Annotated[int, typer.Option(min=0, help="Words to write with the model, to look at it.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of the sample.")] = 0,
) -> None:
    """Fit a Kneser-Ney model of a text's words, to filter other text by its perplexity.

    Examples:

      platen baselines ngram corpus --out filter-model --order 5 --sample 20
    """
    from platen.cli.console import human_size
    from platen.models.classic.ngram import MODEL_FILE, KneserNey

    check_new_folder(out, MODEL_FILE)
    model = KneserNey.fit(_sentences(corpus), order=order, min_count=min_count)
    model.save(out)
    typer.echo(
        f"{model.table.size():,} n-grams of {len(model.vocabulary):,} words, "
        f"{human_size(model.table.bytes())}  {out}"
    )
    if sample:
        typer.echo(" ".join(model.sample(sample, seed=seed)))


@app.command("vectors")
def vectors(
    corpus: CorpusArgument,
    out: Annotated[Path, typer.Option(help="Folder for the vectors.")],
    kind: Annotated[
        Literal["cbow", "skipgram"],
        typer.Option(help="Guess a word from those around it, or those around it from a word."),
    ] = "skipgram",
    size: Annotated[int, typer.Option(min=1, max=4096, help="Numbers in a vector.")] = 100,
    window: Annotated[int, typer.Option(min=1, max=100, help="Words on either side, at most.")] = 5,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the text.")] = 5,
    min_count: Annotated[int, typer.Option(min=1, help="Rarer words get no vector.")] = 2,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same vectors.")] = 0,
) -> None:
    """Train word vectors (word2vec) on a text; `platen embed` takes the folder as a model.

    Examples:

      platen baselines vectors corpus --out word-vectors --size 50

      platen embed run corpus --model ./word-vectors --out vectors.parquet
    """
    from platen.engines.threads import prepare_process

    prepare_process()
    from rich.console import Console

    from platen.cli.console import ConsoleObserver
    from platen.models.classic.word_vectors import VectorOptions, train_vectors
    from platen.models.classic.words import VECTORS_FILE

    check_new_folder(out, VECTORS_FILE)
    options = VectorOptions(
        kind=kind, size=size, window=window, epochs=epochs, min_count=min_count, seed=seed
    )
    trained = train_vectors(_sentences(corpus), options, ConsoleObserver(Console(stderr=True)))
    trained.save(out)
    typer.echo(f"vectors of {len(list(trained.vocabulary)):,} words, {size} numbers each  {out}")


def _sentences(corpus: list[str]) -> list[list[str]]:
    """The words of each sentence in the sources. Raises DataError."""
    from platen.data.config import DataConfig
    from platen.data.readers.config import Source
    from platen.data.sources import find_files, read_documents
    from platen.models.classic.words import sentences, words

    files = find_files(Path.cwd(), DataConfig(sources=tuple(Source(path=path) for path in corpus)))
    texts = (document.text for file in files for document in read_documents(file))
    return [words(sentence) for text in texts for sentence in sentences(text)]


@app.command("draft")
def draft(
    tokens: Annotated[Path, typer.Argument(help="Folder of token files, by `platen tokens encode`.")],
    out: Annotated[Path, typer.Option(help="Folder for the counts.")],
    order: Annotated[int, typer.Option(min=3, max=16, help="Tokens of an n-gram, at most.")] = 4,
    min_count: Annotated[int, typer.Option(min=1, help="Rarer n-grams are dropped.")] = 2,
    share: Annotated[
        float, typer.Option(min=0, max=1, help="In this share of all times the token came next, at least.")
    ] = 0.5,
) -> None:
    """Count what follows which tokens in train.bin, for draft tokens of a server (`serve.draft.ngram`).

    Encode the texts with the tokenizer of the model that is to be served.

    Examples:

      platen tokens encode answers.jsonl -t my-model --out tokens

      platen baselines draft tokens --out draft-model
    """
    from platen.baselines.count_drafts import count_continuations
    from platen.cli.console import human_size
    from platen.engines.batching.draft_ngrams import ABOUT_FILE

    check_new_folder(out, ABOUT_FILE)
    counted = count_continuations(tokens, order=order, min_count=min_count, share=share)
    counted.save(out)
    typer.echo(f"{len(counted):,} contexts and what follows them, {human_size(counted.bytes())}  {out}")
