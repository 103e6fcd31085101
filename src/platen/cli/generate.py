"""`platen generate`: continue a prompt, streaming."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from platen.cli.options import (
    HERE,
    MaxTokensOption,
    ProjectOption,
    SeedOption,
    TemperatureOption,
    TopKOption,
    TopPOption,
    names_elsewhere,
    open_pipeline,
    released_bundle,
    sampling_params,
)
from platen.core.errors import ConfigError

if TYPE_CHECKING:
    from platen.engines.protocol import SamplingParams
    from platen.models.generation_config import SamplingDefaults


def command(
    prompt: Annotated[str, typer.Argument(help="The text to continue; - reads standard input.")] = "",
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="A bundle's folder, GGUF file or Hub name, or MODEL@VERSION."),
    ] = None,
    project: ProjectOption = HERE,
    max_tokens: MaxTokensOption = 200,
    temperature: TemperatureOption = None,
    top_p: TopPOption = None,
    top_k: TopKOption = None,
    seed: SeedOption = None,
    stop: Annotated[list[str] | None, typer.Option(help="End before this text; may be repeated.")] = None,
) -> None:
    """Continue a prompt.

    Examples:

      platen generate "PROSPERO:" -p examples/shakespeare --seed 1

      echo "Once upon" | platen generate - -m ./bundle --temperature 0
    """
    import asyncio

    text = sys.stdin.read().removesuffix("\n") if prompt == "-" else prompt
    sampling = partial(
        sampling_params,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        seed=seed,
        stop=tuple(stop or ()),
        max_tokens=max_tokens,
    )
    try:
        asyncio.run(_generate(bundle_path(project, model), text, sampling))
    except ValueError as error:
        raise ConfigError(str(error), hint="shorten the prompt") from error
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def bundle_path(project: Path, model: str | None) -> Path | str:
    """What `--model` names: a folder, a GGUF file, a Hub name, or a registered version (None: production)."""
    if model is not None and names_elsewhere(model):
        return Path(model) if Path(model).exists() else model
    return released_bundle(open_pipeline(project), model)[0]


async def _generate(
    bundle: Path | str, prompt: str, sampling: Callable[[SamplingDefaults], SamplingParams]
) -> None:
    from platen.engines.local import open_model, stream_text

    model = open_model(bundle, max_concurrent=1)
    started, count = time.monotonic(), 0
    try:
        sys.stdout.write(prompt)
        async for event in stream_text(model.engine, model.tokenizer, prompt, sampling(model.defaults)):
            sys.stdout.write(event.text)
            sys.stdout.flush()
            count = event.usage.completion_tokens if event.usage else count
        sys.stdout.write("\n")
    finally:
        await model.engine.close()
    if sys.stderr.isatty():
        seconds = time.monotonic() - started
        print(f"[{count} tokens in {seconds:.1f} s, {count / seconds:.0f} a second]", file=sys.stderr)
