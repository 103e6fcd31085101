"""`platen plan`: what a model costs in memory, time and money, before it exists."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from platen.cli.options import HERE, ProjectOption, SetOption, open_pipeline
from platen.core.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from platen.models.arch.config import DecoderConfig
    from platen.pipeline.runner import Pipeline


@dataclass(frozen=True)
class _Subject:
    """What is planned: a shape, or only a parameter count."""

    title: str
    parameters: int
    config: DecoderConfig | None


def command(
    project: ProjectOption = HERE,
    overrides: SetOption = None,
    model: Annotated[Path | None, typer.Option(help="Plan this bundle or config.json instead.")] = None,
    parameters: Annotated[str | None, typer.Option(help="Plan a bare count such as 7B instead.")] = None,
    context: Annotated[int, typer.Option(min=1, help="Tokens held in the cache by one request.")] = 512,
    batch: Annotated[int, typer.Option(min=1, help="Requests at once.")] = 1,
    tokens: Annotated[str | None, typer.Option(help="Training tokens; default: 20 a parameter.")] = None,
    flops: Annotated[
        float | None, typer.Option(help="FLOP/s of one device; default: measured on this machine.")
    ] = None,
    utilisation: Annotated[float, typer.Option(help="Share of --flops that training reaches.")] = 0.4,
    devices: Annotated[int, typer.Option(min=1)] = 1,
    price: Annotated[float, typer.Option(min=0, help="Price of a device-hour.")] = 0.0,
    embedding_model: Annotated[
        bool, typer.Option("--embedding-model", help="Add a retrieval embedding model (about 1 GB).")
    ] = False,
) -> None:
    """Parameters, memory, KV cache, training time and cost of a model.

    Examples:

      platen plan -p examples/shakespeare

      platen plan --parameters 7B --context 512 --batch 16

      platen plan --model ./bundle --tokens 15T --flops 989e12 --devices 64 --price 2.5
    """
    from rich.console import Console

    from platen.models.sizing import parse_count

    subject = _subject(project, overrides, model, parameters)
    console = Console(highlight=False)
    console.print(f"[bold]{subject.title}[/]  {subject.parameters:,} parameters")
    _memory(console, subject, context, batch, embedding_model)
    trained_on = parse_count(tokens) if tokens else 20 * subject.parameters
    _training(console, subject, trained_on, flops, utilisation, devices, price)


def _subject(
    project: Path, overrides: list[str] | None, model: Path | None, parameters: str | None
) -> _Subject:
    from platen.models.arch.config import DecoderConfig
    from platen.models.sizing import parse_count

    if parameters is not None:
        return _Subject(parameters, parse_count(parameters), None)
    if model is not None:
        file = model / "config.json" if model.is_dir() else model
        try:
            config = DecoderConfig.from_hf(json.loads(file.read_text("utf-8")))
        except (OSError, ValueError) as error:
            raise ConfigError(f"can't read {file}: {error}") from error
        return _Subject(str(model), config.num_parameters(), config)
    pipeline = open_pipeline(project, overrides)
    described = pipeline.project
    described.require_model()
    if described.base is not None:
        return _of_base(pipeline, described.base)
    from platen.models.arch.from_project import llama_config

    config = llama_config(described.model, described.tokenizer.vocab_size)
    return _Subject(described.name, config.num_parameters(), config)


def _of_base(pipeline: Pipeline, reference: str) -> _Subject:
    """The model that a project starts from; one on the Hub or at a URL is fetched."""
    from platen.models.resolve import Resolver
    from platen.pipeline.registered import ProjectModels

    here = pipeline.directory / Path(reference).expanduser()
    model = Resolver(ProjectModels(lambda: pipeline)).resolve(here if here.exists() else reference)
    try:
        return _Subject(reference, model.parameters, model.config.decoder)
    finally:
        model.release()


def _memory(console: Console, subject: _Subject, context: int, batch: int, embedding_model: bool) -> None:
    from rich.table import Table

    from platen.cli.console import human_size
    from platen.engines.batching.kv_budget import DEFAULT, budget_bytes
    from platen.models import sizing

    rule = sizing.RULE_OF_THUMB_CACHE_BYTES
    per_token = sizing.cache_bytes_per_token(subject.config) if subject.config else rule
    held = sizing.cache_bytes(subject.config, context) // context if subject.config else rule
    table = Table(
        "to serve", "weights", f"cache, {context} tokens × {batch}", "in all", box=None, pad_edge=False
    )
    for bits in sizing.BITS:
        memory = sizing.serving_memory(
            subject.parameters,
            bits=bits,
            tokens=context,
            batch=batch,
            cache_per_token=held,
            embedding_model=embedding_model,
        )
        cells = (memory.weights, memory.cache, memory.total)
        table.add_row(f"{bits} bits", *(_round(size) for size in cells))
    console.print(table)
    console.print(
        f"KV cache a token: {human_size(per_token)}"
        + (" (16 bits, exact)" if subject.config else " (rule of thumb)")
        + f"; by rule of thumb {_round(rule)}: {_round(rule * context)} for {context} tokens, "
        + f"{_round(rule * context * batch)} for a batch of {batch}"
    )
    budget = budget_bytes(DEFAULT)
    console.print(
        f"platen serve gives the cache {DEFAULT} of the memory that is free (serve.kv_memory): here "
        f"{_round(budget)}, {budget // per_token:,} tokens of all requests at 16 bits"
    )
    fits = sizing.fit_table(subject.parameters, tokens=context, batch=batch, cache_per_token=held)
    grid = Table("cards needed", *(f"{bits} bits" for bits in sizing.BITS), box=None, pad_edge=False)
    for gpu in sizing.GPUS:
        row = [fit for fit in fits if fit.gpu == gpu]
        grid.add_row(gpu.name, *(f"[green]{f.cards}[/]" if f.fits else f"[yellow]{f.cards}[/]" for f in row))
    console.print(grid)


def _training(
    console: Console,
    subject: _Subject,
    tokens: int,
    flops: float | None,
    utilisation: float,
    devices: int,
    price: float,
) -> None:
    from platen.cli.console import human_count, human_time
    from platen.models import sizing

    memory = sizing.training_memory(subject.parameters)
    console.print(
        f"to train  {_round(memory.total)} ({sizing.TRAINING_BYTES_PER_PARAMETER} bytes a parameter: "
        f"weights {_round(memory.weights)}, gradients {_round(memory.gradients)}, "
        f"optimizer {_round(memory.optimizer)}) and activations"
    )
    config, length = subject.config, 0
    if config is not None:
        length = config.max_position_embeddings
        each = sizing.activation_bytes(config, length, 1)
        console.print(f"          activations {_round(each)} for each sequence of {length} tokens")
    work = sizing.training_flops(subject.parameters, tokens, config=config, sequence_length=length)
    rate, reached = (flops, utilisation) if flops else (sizing.measure_flop_rate(), 1.0)
    bill = sizing.training_bill(work.total, rate, utilisation=reached, devices=devices, price_per_hour=price)
    measured = f"at {utilisation:.0%} of a given" if flops else "at a measured"
    console.print(
        f"on {human_count(tokens)} tokens ({tokens / subject.parameters:.3g} a parameter): "
        f"{work.total:.3g} FLOPs, {human_time(bill.seconds)} {measured} {rate / 1e12:.3g} TFLOP/s × {devices}"
        + (f", cost {bill.cost:,.2f}" if price else "")
    )


def _round(size: float) -> str:
    """Bytes as people say them: 14 GB, 512 MB, 14.3 MB."""
    from platen.cli.console import human_size

    return human_size(size).replace(".0 ", " ")
