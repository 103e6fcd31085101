"""`platen tokens`: train, extend, convert, audit tokenizers; count tokens; encode texts to token files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from platen.cli.options import HERE, ProjectOption, open_pipeline
from platen.cli.tokensview import show_audit, show_counts
from platen.core.errors import ConfigError, DataError, complaint
from platen.core.files import replaced_folder
from platen.core.outputs import check_file, check_folder, check_new_folder
from platen.core.wording import counted

if TYPE_CHECKING:
    from platen.tokens.tokenizer import Tokenizer

app = typer.Typer(no_args_is_help=True)

TokenizerOption = Annotated[
    Path | None,
    typer.Option(
        "--tokenizer", "-t", help="A bundle's or tokenizer's folder or file; default: the project's newest."
    ),
]
TextsArgument = Annotated[
    list[Path], typer.Argument(help=".jsonl files (a text a line), text files, or folders of them.")
]


@app.callback()
def _group() -> None:
    """Train, extend, convert and audit tokenizers; count tokens; encode texts.

    Examples:

      platen tokens train corpus/ --vocab-size 32000 --out my-tokenizer

      platen tokens count README.md -t my-tokenizer
    """


@app.command("train")
def train(
    texts: TextsArgument,
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    kind: Annotated[
        str, typer.Option(help="bpe, wordpiece, unigram, sentencepiece_bpe or sentencepiece_unigram.")
    ] = "bpe",
    vocab_size: Annotated[int, typer.Option(help="Entries in all.")] = 32_000,
    min_frequency: Annotated[int, typer.Option(help="A pair seen fewer times is never merged.")] = 2,
    chat_template: Annotated[
        Path | None, typer.Option(help="Jinja file; its <|markers|> become special tokens.")
    ] = None,
    fill_in_the_middle: Annotated[
        bool, typer.Option("--fill-in-the-middle", help="Have the marks for texts with a gap.")
    ] = False,
    special: Annotated[list[str] | None, typer.Option(help="A further special token; repeatable.")] = None,
) -> None:
    """Learn a tokenizer from texts.

    Examples:

      platen tokens train corpus/ --kind unigram --vocab-size 8000 --out my-tokenizer
    """
    from pydantic import ValidationError

    from platen.cli.console import ConsoleObserver
    from platen.tokens.config import TokenizerConfig
    from platen.tokens.learn import learn_tokenizer
    from platen.tokens.texts import find_texts, read_texts

    asked = {
        "kind": kind,
        "vocab_size": vocab_size,
        "min_frequency": min_frequency,
        "chat_template": chat_template and str(chat_template),
        "fill_in_the_middle": fill_in_the_middle,
        "special_tokens": tuple(special or ()),
    }
    try:
        config = TokenizerConfig.model_validate(asked)
    except ValidationError as error:
        first = error.errors()[0]
        option = str(first["loc"][0]).replace("_", "-")
        raise ConfigError(f"--{option}: {complaint(first)}", hint="see platen tokens train --help") from None
    _text(chat_template)  # said here, as the library's advice is for a project file
    with replaced_folder(out) as folder:
        reading = read_texts(find_texts(texts), "reading text", ConsoleObserver())
        tokenizer = learn_tokenizer(reading, config, Path.cwd())
        tokenizer.save(folder)
    typer.echo(f"{out}: {kind}, {tokenizer.vocab_size:,} entries")


@app.command("extend")
def extend(
    what: Annotated[Path, typer.Argument(help="A bundle, or a tokenizer's folder or file.")],
    out: Annotated[Path, typer.Option(help="Folder to write: a bundle for a bundle.")],
    words: Annotated[Path | None, typer.Option(help="Text file, a word a line.")] = None,
    special: Annotated[list[str] | None, typer.Option(help="A special token; repeatable.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Add ChatML's marks.")] = False,
    fill_in_the_middle: Annotated[
        bool, typer.Option("--fill-in-the-middle", help="Add the marks for texts with a gap.")
    ] = False,
    chat_template: Annotated[Path | None, typer.Option(help="Jinja file, taken over with its marks.")] = None,
) -> None:
    """Add words and special tokens; in a bundle, new rows are the mean of the tokens before.

    Examples:

      platen tokens extend ./my-bundle --words terms.txt --chat --out my-longer-bundle
    """
    from platen.tokens.extend import extend_tokenizer
    from platen.tokens.specials import CHAT, FILL_IN_THE_MIDDLE

    check_new_folder(out)
    marks = [*(CHAT if chat else ()), *(FILL_IN_THE_MIDDLE if fill_in_the_middle else ()), *(special or ())]
    tokenizer = _tokenizer(what, HERE)
    extension = extend_tokenizer(
        tokenizer,
        words=[line.strip() for line in _text(words).splitlines() if line.strip()],
        specials=marks,
        chat_template=_text(chat_template) if chat_template else None,
    )
    with replaced_folder(out) as folder:
        if (what / "config.json").is_file():
            from platen.models.bundle import open_bundle
            from platen.models.resize import resize_bundle

            rows = resize_bundle(open_bundle(what), extension.tokenizer, extension.origins, folder)
            typer.echo(f"{out}: {counted(len(extension.origins), 'new token')}, {rows:,} rows")
        else:
            extension.tokenizer.save(folder)
            new = counted(len(extension.origins), "new token")
            typer.echo(f"{out}: {new}, {extension.tokenizer.vocab_size:,} in all")
    for word, reason in extension.refused.items():
        typer.echo(f"  not added: {word} {reason}")


@app.command("convert")
def convert(
    source: Annotated[Path, typer.Argument(help="A tokenizer's folder, .json, .model, .tiktoken or .gguf.")],
    target: Annotated[Path, typer.Argument(help="File with such an ending, or a folder for tokenizer.json.")],
) -> None:
    """Convert a tokenizer, exactly or not at all.

    Examples:

      platen tokens convert my-tokenizer my-tokenizer.tiktoken

      platen tokens convert tokenizer.model my-tokenizer
    """
    from platen.tokens.convert import Form, form_of
    from platen.tokens.convert import convert as convert_tokenizer

    if target.exists():
        raise ConfigError(f"{target} exists", hint="choose another name")
    form = form_of(target) if target.suffix else Form.json
    if target.name.endswith(".json"):
        raise ConfigError(f"{target}: tokenizer.json has a folder of its own", hint="give the folder's name")
    check_folder(target.parent)
    tokenizer = _tokenizer(source, HERE)
    convert_tokenizer(tokenizer, target, form)
    typer.echo(f"{target}: {form}, {tokenizer.vocab_size:,} entries")


@app.command("audit")
def audit(
    tokenizers: Annotated[
        list[str] | None,
        typer.Argument(help="Folders or files, as NAME=PATH or PATH; default: the project's newest."),
    ] = None,
    texts: Annotated[
        Path | None, typer.Option(help="Folder with a .txt file a language; default: one sentence in many.")
    ] = None,
    planes: Annotated[bool, typer.Option(help="Try the round trip of every character of Unicode.")] = True,
    plot: Annotated[Path | None, typer.Option(help="PNG, SVG or PDF file to write.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    project: ProjectOption = HERE,
) -> None:
    """Compare what tokenizers cost by language, what they don't know, and which characters they lose.

    Examples:

      platen tokens audit ours=my-tokenizer llama2=tokenizer.model --plot audit.png
    """
    from platen.data.readers.needs import needs
    from platen.tokens.audit import PLOT_SUFFIXES, plot_audit, read_language_texts
    from platen.tokens.audit import audit as audit_tokenizers

    if plot is not None:
        check_file(plot, "--plot", PLOT_SUFFIXES)
        needs("matplotlib", "--plot", "bench")
    named: dict[str, Tokenizer] = {}
    for entry in tokenizers or [""]:
        name, _, path = entry.rpartition("=")
        opened = _tokenizer(Path(path) if path else None, project)
        named[name or (Path(path).resolve().name if path else "project")] = opened
    found = audit_tokenizers(named, read_language_texts(texts) if texts else None, planes=planes)
    if plot:
        plot_audit(found, plot)
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2, ensure_ascii=False))
    else:
        show_audit(found)


@app.command("count")
def count(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            help=".jsonl files (a text a line), text files, or folders of them; - or none is standard input."
        ),
    ] = None,
    tokenizer: TokenizerOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    project: ProjectOption = HERE,
) -> None:
    """Count the tokens of texts, as the server's /tokenize would without the token that begins a text.

    Examples:

      platen tokens count README.md -t my-tokenizer

      cat notes.txt | platen tokens count -t my-tokenizer
    """
    from platen.core.progress import SilentProgress
    from platen.tokens.count import Count, Counter, total
    from platen.tokens.texts import find_texts, read_texts

    counter = Counter(_tokenizer(tokenizer, project))

    def counted_file(path: Path) -> Count:
        if path.suffix == ".jsonl":
            return counter.count_texts(str(path), read_texts([path], "counting", SilentProgress()))
        with path.open("rb") as file:
            return counter.count(str(path), file)

    counts = [
        counter.count("-", sys.stdin.buffer)
        if str(path) == "-"
        else total(str(path), map(counted_file, find_texts([path])))
        for path in files or [Path("-")]
    ]
    if len(counts) > 1 and not as_json:
        counts.append(total("total", counts))
    show_counts(counts, as_json)


@app.command("encode")
def encode(
    texts: TextsArgument,
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    tokenizer: TokenizerOption = None,
    split: Annotated[str, typer.Option(help="train, validation or test: where the texts go.")] = "train",
    project: ProjectOption = HERE,
) -> None:
    """Encode texts on all cores to a memory-mapped file, in the form that training takes.

    A folder with train.jsonl, validation.jsonl and test.jsonl, as the stage `data` writes it, gives its three
    splits. The folder appears when all is written.

    Examples:

      platen tokens encode corpus.jsonl -t my-tokenizer --out tokens
    """
    from platen.cli.console import ConsoleObserver
    from platen.core.kinds.data_splits import SPLITS, DataSplits
    from platen.tokens.files import token_file, write_splits
    from platen.tokens.texts import find_texts, read_texts

    if split not in SPLITS:
        raise ConfigError(f"--split: there is no {split!r}", hint=f"one of {', '.join(SPLITS)}")
    prepared = DataSplits(texts[0])
    if len(texts) == 1 and prepared.complete:
        files = {name: [prepared.path(name)] for name in SPLITS}
    else:
        files = {split: find_texts(texts)}
    console = ConsoleObserver()
    with replaced_folder(out) as folder:
        reading = {name: read_texts(some, f"encoding {name}", console) for name, some in files.items()}
        meta = write_splits(folder, _tokenizer(tokenizer, project), reading)
    for name, found in meta.splits.items():
        if found.documents:
            typer.echo(
                f"{token_file(out, name)}: {counted(found.tokens, 'token')} "
                f"of {counted(found.documents, 'text')}, {meta.dtype}, "
                f"{found.bytes / found.tokens:.2f} bytes a token"
            )


def _tokenizer(path: Path | None, project: Path) -> Tokenizer:
    """The tokenizer at `path`; the project's newest for None. Raises PlatenError."""
    from platen.cli.show import find_manifest
    from platen.core.errors import ArtifactError
    from platen.tokens.convert import open_tokenizer

    if path is not None:
        return open_tokenizer(path)
    store = open_pipeline(project).store
    manifest = find_manifest(store.manifests(), "tokenizer")
    found = store.find(manifest.name, manifest.fingerprint)
    if found is None:
        raise ArtifactError(f"{manifest.ref} is gone", hint="platen run")
    return open_tokenizer(found.path)


def _text(file: Path | None) -> str:
    if file is None:
        return ""
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} can't be read: {error}", hint="Give a UTF-8 text file.") from None
