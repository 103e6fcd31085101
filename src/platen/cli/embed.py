"""`platen embed`: a corpus to a file of vectors, the texts in it nearest to a query, a map of it."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from platen.cli.options import HERE, ProjectOption
from platen.core.errors import ConfigError
from platen.core.outputs import check_file, check_new_folder
from platen.core.wording import counted

if TYPE_CHECKING:
    from platen.models.sentence import Backend, Pooling
    from platen.retrieve.embedders import Role, TextModel

app = typer.Typer(no_args_is_help=True)

ModelOption = Annotated[
    str | None,
    typer.Option(
        help="Folder (also of word vectors), Hub name or MODEL@VERSION. Default: the project's in production."
    ),
]
PromptOption = Annotated[
    str | None,
    typer.Option(help="The model's prompt of this name before each text. Default: the one meant for it."),
]
PoolingOption = Annotated[
    Literal["mean", "last", "first", "max"] | None,
    typer.Option(help="Of the last hidden states. Default: what the model's folder says, or mean."),
]
BackendOption = Annotated[
    Literal["torch", "openvino", "onnx"] | None,
    typer.Option(help="What computes. Default: torch, or a graph that the folder has instead of weights."),
]
VectorsArgument = Annotated[Path, typer.Argument(help="A file that platen embed run made.")]


@app.callback()
def embed() -> None:
    """Vectors of texts: make them, search them, look at them.

    Examples:

      platen embed run corpus --model ./all-MiniLM-L6-v2 --out vectors.parquet

      platen embed search vectors.parquet "how do I get a refund" --model ./all-MiniLM-L6-v2

      platen embed plot vectors.parquet --out map.html
    """


@app.command()
def run(
    source: Annotated[
        str,
        typer.Argument(help="As for `platen data read`: a file, folder, glob or URL; - is standard input."),
    ],
    out: Annotated[Path, typer.Option(help="The file of vectors (Parquet); one that is there is replaced.")],
    model: ModelOption = None,
    prompt: PromptOption = None,
    pooling: PoolingOption = None,
    backend: BackendOption = None,
    append: Annotated[
        bool, typer.Option(help="Keep what --out has, if the same model made it, and add what it lacks.")
    ] = False,
    format: Annotated[
        str | None, typer.Option(help="How to read it; default: by the suffix, jsonl for -.")
    ] = None,
    text: Annotated[str, typer.Option(help="Key or column that holds the text.")] = "text",
    cache: Annotated[bool, typer.Option(help="Keep vectors for the next time, and use those kept.")] = True,
    project: ProjectOption = HERE,
) -> None:
    """Make a vector of each document. Killed, the same command resumes from its cache.

    Examples:

      platen embed run corpus --model ./all-MiniLM-L6-v2 --out vectors.parquet

      platen embed run - --model shakespeare@1 --pooling last --out vectors.parquet < texts.jsonl
    """
    from rich.console import Console

    from platen.cli.console import ConsoleObserver
    from platen.cli.data import reading_summary, source_config
    from platen.data.intake import Intake
    from platen.data.sources import find_files
    from platen.retrieve.cache import MOST_BYTES, VectorCache
    from platen.retrieve.corpus import Corpus, embed_corpus
    from platen.retrieve.vectorfile import VectorWriter

    check_file(out, "--out")
    with _place(source) as (folder, path), Intake("quarantine", None) as intake:
        stdin_format = "jsonl" if source == "-" else None
        config = source_config(path=path, format=format or stdin_format, text=text)
        files = find_files(folder, config)
        opened = _open(model, project, "document", prompt, pooling, backend)

        with closing(VectorCache()) if cache else nullcontext() as kept:
            writer = VectorWriter(out, opened.stamp, append=append)
            progress = ConsoleObserver(Console(stderr=True))
            counts = embed_corpus(Corpus(files, intake), opened, writer, progress, kept)
            if kept is not None:
                kept.shrink(MOST_BYTES)
        print(reading_summary(counts.texts + counts.there, intake, None), file=sys.stderr)
    cut = f", {counts.cut} of them cut to what the model reads" if counts.cut else ""
    added = f" added, {counts.there:,} there already" if append else ""
    made = f"{counted(counts.texts, 'vector')}{added} ({counts.cached} known before{cut})"
    typer.echo(f"{made} of {opened.stamp}: {out}")


@app.command()
def search(
    vectors: VectorsArgument,
    query: Annotated[str, typer.Argument(help="What to look for.")],
    model: ModelOption = None,
    prompt: PromptOption = None,
    pooling: PoolingOption = None,
    backend: BackendOption = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Texts to show.")] = 5,
    as_json: Annotated[
        bool, typer.Option("--json", help="A JSON object a line, with the whole text.")
    ] = False,
    project: ProjectOption = HERE,
) -> None:
    """Print the texts most similar to a query, with their cosines. Needs the model that made the file.

    Examples:

      platen embed search vectors.parquet "how do I get a refund" --model ./all-MiniLM-L6-v2
    """
    import json
    from dataclasses import asdict

    from platen.retrieve.search import search as nearest
    from platen.retrieve.vectorfile import VectorFile

    if not query.strip():
        raise ConfigError(
            "the query is empty", hint='Say what to look for: platen embed search FILE "refund"'
        )
    file = VectorFile(vectors)
    for match in nearest(file, _open(model, project, "query", prompt, pooling, backend), query, count):
        if as_json:
            found = {"score": match.score} | asdict(match.document)
            typer.echo(json.dumps(found, ensure_ascii=False))
        else:
            flat = " ".join(match.document.text.split())
            typer.echo(f"{match.score:6.3f}  {match.document.id}  {flat[:99]}{'…' if len(flat) > 99 else ''}")


@app.command()
def plot(
    vectors: VectorsArgument,
    out: Annotated[Path, typer.Option(help="The page, which needs nothing else.")],
    method: Annotated[str, typer.Option(help="pca, or umap (the extra [umap]).")] = "pca",
    color: Annotated[str | None, typer.Option(help="Colour by source or a key of the metadata.")] = None,
    limit: Annotated[int, typer.Option(min=2, help="Points at most, evenly taken from the file.")] = 20_000,
) -> None:
    """Draw the texts as points of a plane, similar ones near each other; pointing at one shows its text.

    Examples:

      platen embed plot vectors.parquet --out map.html --color source
    """
    from platen.retrieve.plot import write_map
    from platen.retrieve.vectorfile import VectorFile

    check_file(out, "--out")
    points = write_map(VectorFile(vectors), out, method=method, color=color, limit=limit)
    typer.echo(f"{counted(points, 'text')}: {out}")


@app.command()
def convert(
    model: Annotated[str, typer.Argument(help="Folder, Hub name or MODEL@VERSION.")],
    out: Annotated[Path, typer.Argument(help="Folder to write, a new one.")],
    to: Annotated[Literal["openvino", "onnx"], typer.Option(help="Whose format.")] = "openvino",
    pooling: PoolingOption = None,
    project: ProjectOption = HERE,
) -> None:
    """Make a graph of a model that OpenVINO computes, as OpenVINO's own format or ONNX; compare its vectors.

    Examples:

      platen embed convert ./all-MiniLM-L6-v2 minilm-openvino

      platen embed run corpus --model ./minilm-openvino --out vectors.parquet
    """
    from platen.cli.options import resolved_model
    from platen.engines.threads import prepare_process

    prepare_process()
    from platen.retrieve.convert import convert as make_graph

    check_new_folder(out)
    cosine = make_graph(resolved_model(model, project).path, out, to, pooling=pooling)
    typer.echo(f"{out}: {to}, cosine with the model's own vectors at least {cosine:.6f}")


@app.command()
def cache(
    max_size: Annotated[
        str | None, typer.Option(help="Take out those unused for longest until it is no larger, as in 2GB.")
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Take out all.")] = False,
) -> None:
    """Say how large the cache of vectors is, or make it smaller. A run keeps it below 10 GB.

    Examples:

      platen embed cache

      platen embed cache --max-size 2GB
    """
    from pydantic import ByteSize, TypeAdapter, ValidationError

    from platen.cli.console import human_size
    from platen.retrieve.cache import VectorCache

    try:
        most = TypeAdapter(ByteSize | None).validate_python("0" if clear else max_size)
    except ValidationError:
        raise ConfigError(f"--max-size {max_size} is no size", hint="As in 500MB or 2GB.") from None
    with closing(VectorCache()) as kept:
        if most is not None:
            typer.echo(f"{kept.shrink(most)} vectors taken out")
            kept.compact()
        typer.echo(f"{len(kept)} vectors, {human_size(kept.size())}: {kept.file}")


def _open(
    model: str | None,
    project: Path,
    role: Role,
    prompt: str | None,
    pooling: Pooling | None,
    backend: Backend | None,
) -> TextModel:
    from platen.cli.options import resolved_model
    from platen.engines.threads import prepare_process

    prepare_process()
    from platen.models.sentence import GRAPHS
    from platen.retrieve.embedders import open_model

    graph = None if backend in (None, "torch") else GRAPHS[backend]
    resolved = resolved_model(model, project, graph=graph)
    name = resolved.name.rpartition("/")[2]
    return open_model(resolved.path, role=role, prompt=prompt, pooling=pooling, backend=backend, name=name)


@contextmanager
def _place(source: str) -> Iterator[tuple[Path, str]]:
    """A folder and the source's path as seen from there; standard input is copied into a file, which readers
    ask for.
    """
    if source != "-":
        yield Path.cwd(), source
        return
    with tempfile.TemporaryDirectory(prefix="platen-") as folder:
        file = Path(folder) / "stdin"
        with file.open("wb") as copy:
            shutil.copyfileobj(sys.stdin.buffer, copy)
        yield Path(folder), file.name
