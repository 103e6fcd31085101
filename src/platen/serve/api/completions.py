"""`POST /v1/completions`: complete a prompt."""

from __future__ import annotations

import codecs
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, replace
from statistics import fmean

from fastapi import APIRouter, Request, Response

from platen.engines.protocol import TokenEvent, TokenLogprob
from platen.prompts.infill import InfillFormat, infill_ends
from platen.serve.access.caller import Caller
from platen.serve.api.completion_types import (
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    CompletionRequest,
)
from platen.serve.api.generation import Generation, check_count, floored, sampling_of
from platen.serve.api.leased_generation import answer
from platen.serve.api.openapi import streamed
from platen.serve.context import ServeContext
from platen.serve.hub.served_model import ServedModel, Stamp
from platen.web.errors import ApiError


def completions_router(context: ServeContext) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/completions", response_model=Completion, responses=streamed(Completion))
    async def create_completion(body: CompletionRequest, request: Request) -> Response:
        """Continue a prompt, or several; with `stream` as server-sent events."""
        return await answer(
            context,
            request,
            body.model,
            lambda model, caller: _Completion.start(model, body, caller),
            stream=bool(body.stream),
            user=body.end_user,
        )

    return router


class _Completion:
    """One request being answered."""

    def __init__(
        self, model: ServedModel, body: CompletionRequest, generation: Generation, choices: list[_Choice]
    ) -> None:
        self._body = body
        self.generation = generation
        self._choices = choices
        self._stamp = asdict(Stamp.new("cmpl", model.info))

    @classmethod
    async def start(cls, model: ServedModel, body: CompletionRequest, caller: Caller) -> _Completion:
        _check(body)
        made = body.best_of or body.n or 1
        prompts, texts = await _prompts(model, body, made)
        logprobs = body.logprobs
        if made > (body.n or 1):
            logprobs = logprobs or 0  # the best is told by its log-probabilities
        sampling = sampling_of(body, body.max_tokens, logprobs, model.info.defaults)
        if body.suffix:
            ends = infill_ends(model.tokenizer, _infill_format(model))
            sampling = replace(sampling, stop_token_ids=sampling.stop_token_ids + ends)
        generation = await Generation.start(
            model.engine,
            prompts,
            sampling,
            caller=caller,
            model=model.info.name,
            n=made,
            prompt_logprobs=body.logprobs if body.echo else None,
        )
        choices = [
            _Choice(index, model, prompts[index // made], texts[index // made] if body.echo else "", body)
            for index in range(len(prompts) * made)
        ]
        return cls(model, body, generation, choices)

    async def pieces(self) -> AsyncIterator[Completion]:
        """The answer bit by bit, at the end the usage if it was asked for."""
        async for item in self.generation.events():
            choice = self._choices[item.index].piece(item.event)
            if choice is not None:
                yield Completion(**self._stamp, choices=[choice])
        if self._body.wants_usage:
            yield Completion(**self._stamp, choices=[], usage=self.generation.usage())

    async def whole(self) -> Completion:
        """The answer in one."""
        done: dict[int, CompletionChoice] = {}
        scores: dict[int, list[float]] = defaultdict(list)
        async for item in self.generation.events():
            scores[item.index] += [score.logprob for score in item.event.logprobs]
            piece = self._choices[item.index].piece(item.event)
            if piece is None:
                continue
            if item.index not in done:
                done[item.index] = piece
                continue
            choice = done[item.index]
            choice.text += piece.text
            choice.finish_reason = piece.finish_reason
            if choice.logprobs is not None and piece.logprobs is not None:
                choice.logprobs.extend(piece.logprobs)
        choices = self._best([done[index] for index in sorted(done)], scores)
        return Completion(**self._stamp, choices=choices, usage=self.generation.usage())

    def _best(
        self, choices: list[CompletionChoice], scores: Mapping[int, Sequence[float]]
    ) -> list[CompletionChoice]:
        """Of each prompt's answers the `n` with the highest mean log-probability, numbered anew."""
        wanted, made = self._body.n or 1, self._body.best_of or self._body.n or 1
        if made == wanted:
            return choices
        best: list[CompletionChoice] = []
        for first in range(0, len(choices), made):
            group = choices[first : first + made]
            group.sort(key=lambda choice: fmean(scores[choice.index] or [0.0]), reverse=True)
            best += group[:wanted]
        for index, choice in enumerate(best):
            choice.index = index
        return best


class _Choice:
    """Makes one choice's chunks: text, log-probabilities and where in the text each token begins."""

    def __init__(
        self, index: int, model: ServedModel, prompt: Sequence[int], echo: str, body: CompletionRequest
    ) -> None:
        """`echo` is the prompt's text if it is to come before the response."""
        self._index = index
        self._echo = echo
        self._tokenizer = model.tokenizer
        self._first_token = prompt[0]
        self._first_is_text = echo.encode().startswith(self._tokenizer.token_bytes(prompt[0]))
        self._with_logprobs = body.logprobs is not None
        self._offset = 0
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")

    def piece(self, event: TokenEvent) -> CompletionChoice | None:
        """What the client gets of an event; None when there is nothing to show yet."""
        text, self._echo = self._echo + event.text, ""
        logprobs = None
        if self._with_logprobs:
            logprobs = self._logprobs([*event.prompt_logprobs, *event.logprobs])
        if not text and not (logprobs and logprobs.tokens) and event.finish_reason is None:
            return None
        reason = event.finish_reason if event.finish_reason != "cancelled" else None
        return CompletionChoice(index=self._index, text=text, logprobs=logprobs, finish_reason=reason)

    def _logprobs(self, scores: Sequence[TokenLogprob | None]) -> CompletionLogprobs:
        result = CompletionLogprobs()
        for score in scores:
            token_id = self._first_token if score is None else score.token_id
            result.tokens.append(self._tokenizer.token_text(token_id))
            result.token_logprobs.append(None if score is None else floored(score.logprob))
            result.top_logprobs.append(None if score is None else _likeliest(score))
            result.text_offset.append(self._offset)
            if score is None and not self._first_is_text:
                continue  # beginning-of-text has no place in the text
            # A token may be a part of a character: that one begins where its first byte is.
            self._offset += len(self._characters.decode(self._tokenizer.token_bytes(token_id)))
        return result


def _likeliest(score: TokenLogprob) -> dict[str, float]:
    """The likeliest tokens and, as OpenAI has it, always the one that was chosen."""
    return {text: floored(value) for _, text, value in score.top} | {score.text: floored(score.logprob)}


def _check(body: CompletionRequest) -> None:
    """What types can't say. Raises ApiError."""
    if body.best_of is not None and body.best_of < (body.n or 1):
        raise ApiError(400, "'best_of' must not be less than 'n'.", param="best_of", code="invalid_value")
    if body.best_of is not None and body.best_of > (body.n or 1) and body.stream:
        raise ApiError(
            400,
            "With 'best_of' nothing can be streamed: the best is known at the end.",
            param="best_of",
            code="invalid_value",
        )
    if not body.suffix:
        return
    for param in ("echo", "truncate_prompt_tokens"):
        if getattr(body, param):
            raise ApiError(
                400, f"'{param}' can't be combined with 'suffix'.", param=param, code="invalid_value"
            )


def _infill_format(model: ServedModel) -> InfillFormat:
    if model.infill_format is None:
        raise ApiError(
            400,
            "This model can't fill in the middle: its tokenizer has no tokens for it. Leave out 'suffix'.",
            param="suffix",
            code="unsupported_parameter",
        )
    return model.infill_format


async def _prompts(model: ServedModel, body: CompletionRequest, n: int) -> tuple[list[list[int]], list[str]]:
    """Token ids of each prompt in a request, and for an echo its text as far as it is used."""
    texts: list[str] = []
    prompts: list[list[int]] = []
    room = body.truncate_prompt_tokens
    if isinstance(body.prompt, str):
        texts = [body.prompt]
    else:
        texts = [item for item in body.prompt if isinstance(item, str)]
        prompts = [item for item in body.prompt if isinstance(item, list)]
        if not texts and not prompts:
            prompts = [[token_id for token_id in body.prompt if isinstance(token_id, int)]]
    check_count(model.engine, len(texts) + len(prompts), n, "prompt")
    if body.suffix:
        if not texts:
            raise ApiError(400, "With 'suffix' a prompt must be text.", param="prompt", code="invalid_value")
        return await model.infill_prompts(_infill_format(model), texts, body.suffix), texts
    if texts:
        prompts = await model.text_prompts(texts, room)
    else:
        prompts = await model.id_prompts(prompts if room is None else [ids[-room:] for ids in prompts])
    if body.echo and (room is not None or not texts):
        texts = [model.tokenizer.decode(ids) for ids in prompts]
    return prompts, texts
