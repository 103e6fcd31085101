"""Tokens for clients, as vLLM's server gives them: `/tokenize`, `/detokenize`, `/tokenizer_info`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, model_validator

from platen.serve.access.layer import caller_of
from platen.serve.api.chat import messages_of
from platen.serve.api.chat_types import MAX_MESSAGES, MAX_TOOLS, ChatMessage, ChatTool, TemplateParams
from platen.serve.api.conversation import Conversation, ToolUse
from platen.serve.api.openai_types import MAX_TOKENS, Text
from platen.serve.context import ServeContext
from platen.serve.hub.served_model import ServedModel, writer


class TokenizeRequest(TemplateParams):
    """A text (`prompt`) or a conversation (`messages`), which goes through the chat template."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str | None = None
    prompt: Text | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)] | None = None
    tools: Annotated[list[ChatTool], Field(max_length=MAX_TOOLS)] | None = None
    add_special_tokens: bool = True
    """Add the tokenizer's own special tokens, as completions do."""
    return_token_strs: bool | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> TokenizeRequest:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("either 'prompt' or 'messages' is needed")
        return self


class Tokens(BaseModel):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    model: str | None = None
    tokens: Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(max_length=MAX_TOKENS)]


class Detokenized(BaseModel):
    prompt: str


class TokenizerInfo(BaseModel):
    """What a client needs to prepare prompts itself."""

    tokenizer_class: str = "PreTrainedTokenizerFast"
    vocab_size: int
    max_model_len: int
    bos_token: str | None
    eos_token: str | None
    pad_token: str | None
    chat_template: str | None


def tokens_router(context: ServeContext) -> APIRouter:
    router = APIRouter()

    @router.post("/tokenize")
    async def tokenize(body: TokenizeRequest, request: Request) -> Tokens:
        """The tokens of a text or a conversation."""
        model = _model(context, request, body.model)
        if body.messages is not None:
            tools = tuple(tool.function.to_tool() for tool in body.tools or ())
            conversation = Conversation(
                messages_of(body.messages), ToolUse(tools), template=body.template_options()
            )
            ids = await conversation.prompt(model)
        else:
            ids = await model.plain_tokens(body.prompt or "", add_special_tokens=body.add_special_tokens)
        names = [model.tokenizer.token_text(token_id) for token_id in ids] if body.return_token_strs else None
        window = model.info.context_window
        return Tokens(count=len(ids), max_model_len=window, tokens=ids, token_strs=names)

    @router.post("/detokenize")
    async def detokenize(body: DetokenizeRequest, request: Request) -> Detokenized:
        """The text of tokens, special ones included. An id that no token has adds nothing."""
        model = _model(context, request, body.model)
        return Detokenized(prompt=model.tokenizer.decode(body.tokens, skip_special=False))

    @router.get("/tokenizer_info")
    async def tokenizer_info(request: Request) -> TokenizerInfo:
        """The special tokens and the chat template."""
        model = _model(context, request, None)
        tokenizer = model.tokenizer

        def named(token_id: int | None) -> str | None:
            return None if token_id is None else tokenizer.token_text(token_id)

        return TokenizerInfo(
            vocab_size=tokenizer.vocab_size,
            max_model_len=model.info.context_window,
            bos_token=named(tokenizer.bos_id),
            eos_token=named(tokenizer.eos_id),
            pad_token=named(tokenizer.pad_id),
            chat_template=tokenizer.chat_template,
        )

    return router


def _model(context: ServeContext, request: Request, name: str | None) -> ServedModel:
    """The model of this name; when none is named, the first one that the caller may use.

    Raises ApiError when there is none, or the caller may not use it.
    """
    caller = caller_of(request)
    if name is None:
        writers = [model for model in context.hub.models() if isinstance(model, ServedModel)]
        found = next((model for model in writers if caller.may_use(model.info.name)), None)
        if found is not None:
            return found
        name = writers[0].info.name if writers else ""
    caller.check_model(name)
    return writer(context.hub.route(name).stable.model)
