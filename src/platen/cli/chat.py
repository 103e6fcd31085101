"""`platen chat`: talk to a model in the terminal, the answer appearing as it is made."""

from __future__ import annotations

import os
import sys
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
    TopPOption,
    resolved_model,
    sampling_params,
)
from platen.core.errors import ConfigError, PlatenError
from platen.serve.access.keys import KEY_VARIABLE

if TYPE_CHECKING:
    from platen.engines.options import EngineOptions
    from platen.engines.protocol import SamplingParams
    from platen.models.generation_config import SamplingDefaults
    from platen.models.resolve import ResolvedModel

    Sampling = Callable[[SamplingDefaults], SamplingParams]

Turn = dict[str, str]


def command(
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="A bundle's folder, GGUF file or Hub name, or MODEL@VERSION; with --url a name there.",
        ),
    ] = None,
    project: ProjectOption = HERE,
    url: Annotated[
        str | None,
        typer.Option(help=f"Talk to a running server instead. If it asks for a key: {KEY_VARIABLE}."),
    ] = None,
    system: Annotated[str | None, typer.Option(help="A system message to begin with.")] = None,
    max_tokens: MaxTokensOption = 200,
    temperature: TemperatureOption = None,
    top_p: TopPOption = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
    dtype: DTypeOption = None,
) -> None:
    """Talk to a model in the terminal.

    Ctrl-C stops an answer; /new begins again; Ctrl-D or /quit leaves. An error ends piped input.

    Examples:

      platen chat -p examples/shakespeare

      platen chat --url http://127.0.0.1:8000 -m large
    """
    from platen.engines.options import EngineOptions

    sampling = partial(
        sampling_params, temperature=temperature, top_p=top_p, seed=seed, max_tokens=max_tokens
    )
    opening = [{"role": "system", "content": system}] if system else []
    speaker: _Local | _Remote
    if url:
        speaker = _Remote(url, model, sampling)
    else:
        options = EngineOptions(max_concurrent=1, device=device or "auto", dtype=dtype or "auto")
        speaker = _Local(resolved_model(model, project), options, sampling)
    try:
        _converse(speaker, opening)
    finally:
        speaker.close()


def _converse(speaker: _Local | _Remote, opening: list[Turn]) -> None:
    turns = list(opening)
    typer.echo("Ctrl-C stops an answer, /new begins again, Ctrl-D or /quit leaves.")
    while True:
        try:
            said = input("\n› ").strip()
        except (EOFError, KeyboardInterrupt):
            typer.echo("")
            return
        if said == "/quit":
            return
        if said == "/new":
            turns = list(opening)
        elif said:
            turns.append({"role": "user", "content": said})
            answer = _stream(speaker, turns)
            turns = [*turns, {"role": "assistant", "content": answer}] if answer else turns[:-1]


def _stream(speaker: _Local | _Remote, turns: list[Turn]) -> str:
    """Print the answer as it comes; what there is of it when stopped.

    An error is told and the turn void, where somebody is there to ask again; else it is raised.
    """
    pieces: list[str] = []

    def show(text: str) -> None:
        print(text, end="", flush=True)
        pieces.append(text)

    try:
        speaker.answer(turns, show)
    except KeyboardInterrupt:
        print(" …", end="")
    except (PlatenError, ValueError) as error:
        told = error if isinstance(error, PlatenError) else ConfigError(str(error), hint="say less at once")
        if not sys.stdin.isatty():
            raise told from None
        typer.echo(f"platen: {told}", err=True)
        return ""
    print()
    return "".join(pieces)


class _Local:
    """A bundle opened in this process."""

    def __init__(self, model: ResolvedModel, options: EngineOptions, sampling: Sampling) -> None:
        import asyncio

        from platen.engines.local import open_model

        self._runner = asyncio.Runner()
        self._model = open_model(model, options)
        self._sampling = sampling(self._model.defaults)

    def answer(self, turns: list[Turn], show: Callable[[str], None]) -> None:
        self._runner.run(self._answer(turns, show))

    async def _answer(self, turns: list[Turn], show: Callable[[str], None]) -> None:
        from platen.engines.local import stream_chat

        model = self._model
        async for event in stream_chat(model.engine, model.tokenizer, turns, self._sampling):
            show(event.text)

    def close(self) -> None:
        self._runner.run(self._model.engine.close())
        self._runner.close()


class _Remote:
    """A server that speaks OpenAI's API."""

    def __init__(self, url: str, model: str | None, sampling: Sampling) -> None:
        from platen.serve.client import ChatClient

        self._client = ChatClient(url, model=model, api_key=os.environ.get(KEY_VARIABLE))
        self._sampling = sampling
        self._params: SamplingParams | None = None

    def answer(self, turns: list[Turn], show: Callable[[str], None]) -> None:
        if self._params is None:
            self._params = self._sampling(self._client.sampling_defaults())
        for text in self._client.stream(turns, self._params):
            show(text)

    def close(self) -> None:
        self._client.close()
