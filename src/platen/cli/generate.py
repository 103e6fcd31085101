"""`platen generate`: continue a prompt, streaming."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from platen.cli.options import (
    HERE,
    DeviceOption,
    DTypeOption,
    MaxTokensOption,
    ProjectOption,
    SeedOption,
    TemperatureOption,
    TopKOption,
    TopPOption,
    resolved_model,
    sampling_params,
)
from platen.core.errors import ConfigError

if TYPE_CHECKING:
    from platen.engines.options import EngineOptions
    from platen.engines.protocol import SamplingParams
    from platen.models.generation_config import SamplingDefaults
    from platen.models.resolve import ResolvedModel


def command(
    prompt: Annotated[str, typer.Argument(help="The text to continue; - reads standard input.")] = "",
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="A bundle's folder or Hub name, or MODEL@VERSION.")
    ] = None,
    project: ProjectOption = HERE,
    max_tokens: MaxTokensOption = 200,
    temperature: TemperatureOption = None,
    top_p: TopPOption = None,
    top_k: TopKOption = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
    dtype: DTypeOption = None,
    stop: Annotated[list[str] | None, typer.Option(help="End before this text; may be repeated.")] = None,
) -> None:
    """Continue a prompt.

    Examples:

      platen generate "PROSPERO:" -p examples/shakespeare --seed 1

      echo "Once upon" | platen generate - -m ./bundle --temperature 0
    """
    import asyncio

    from platen.engines.options import EngineOptions

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
        options = EngineOptions(max_concurrent=1, device=device or "auto", dtype=dtype or "auto")
        asyncio.run(_generate(resolved_model(model, project), options, text, sampling))
    except ValueError as error:
        raise ConfigError(str(error), hint="shorten the prompt") from error
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


async def _generate(
    resolved: ResolvedModel,
    options: EngineOptions,
    prompt: str,
    sampling: Callable[[SamplingDefaults], SamplingParams],
) -> None:
    from platen.engines.local import open_model, stream_text

    model = open_model(resolved, options)
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
