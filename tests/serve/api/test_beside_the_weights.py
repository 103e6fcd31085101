"""What lies beside a model's weights holds for requests: end tokens, sampling, templates that end in time."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from platen.engines.local import open_model
from platen.engines.protocol import SamplingParams
from platen.models.generation_config import SamplingDefaults
from platen.prompts.templates import ChatTemplateError
from platen.serve.config import ServeConfig
from platen.serve.guards.config import GuardsConfig
from platen.serve.hub.loading import served_model
from platen.serve.hub.served_model import ModelInfo, ServedModel
from platen.tokens.tokenizer import Tokenizer
from tests.serve.running import RunningServer, ScriptedEngine
from tests.small_tokenizer import small_tokenizer
from tests.toolmodels import MARKERS, TEMPLATES, tokenizer_with

INFO = ModelInfo("tiny", 128, 12_345, "chat", "f" * 16, 1_700_000_000)
WISHES = SamplingDefaults(0.7, 20, 0.8, 0.05, 1.1)
MESSAGES = [{"role": "user", "content": "Hi"}]

Serve = Callable[..., httpx.Client]


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as stack:

        def start(model: ServedModel, config: ServeConfig | None = None) -> httpx.Client:
            server = RunningServer([model], config or ServeConfig(drain_seconds=1))
            stack.callback(server.stop)
            return stack.enter_context(httpx.Client(base_url=server.url, timeout=30))

        yield start


def post(http: httpx.Client, path: str, **body: Any) -> dict[str, Any]:
    response = http.post(path, json={"model": "tiny"} | body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


ENDPOINTS = {
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/completions": {"prompt": "Hi"},
    "/v1/responses": {"input": "Hi"},
}


@pytest.mark.parametrize("path", sorted(ENDPOINTS))
def test_the_models_sampling_holds_for_what_a_request_leaves_out(
    serve: Serve, tiny_tokenizer: Tokenizer, path: str
) -> None:
    engine = ScriptedEngine(["a"])
    http = serve(ServedModel(engine, tiny_tokenizer, replace(INFO, defaults=WISHES)))
    answer = post(http, path, **ENDPOINTS[path])
    sampling = engine.requests[-1].sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.7, 20, 0.8)
    assert (sampling.min_p, sampling.repetition_penalty) == (0.05, 1.1)
    if path == "/v1/responses":
        assert (answer["temperature"], answer["top_p"]) == (0.7, 0.8)
    post(http, path, **ENDPOINTS[path], temperature=0, top_p=1)
    assert (engine.requests[-1].sampling.temperature, engine.requests[-1].sampling.top_p) == (0, 1)


def test_a_request_can_turn_each_of_them_off(serve: Serve, tiny_tokenizer: Tokenizer) -> None:
    engine = ScriptedEngine(["a"])
    http = serve(ServedModel(engine, tiny_tokenizer, replace(INFO, defaults=WISHES)))
    neutral = {"temperature": 1, "top_k": 0, "top_p": 1, "min_p": 0, "repetition_penalty": 1}
    post(http, "/v1/completions", prompt="Hi", **neutral)
    assert engine.requests[-1].sampling == SamplingParams(temperature=1, max_tokens=16)


@pytest.mark.parametrize("path", sorted(ENDPOINTS))
def test_suppressed_tokens_are_kept_away(serve: Serve, tiny_tokenizer: Tokenizer, path: str) -> None:
    engine, wishes = ScriptedEngine(["a"]), SamplingDefaults(suppress_tokens=(3, 5))
    http = serve(ServedModel(engine, tiny_tokenizer, replace(INFO, defaults=wishes)))
    post(http, path, **ENDPOINTS[path])
    assert engine.requests[-1].sampling.logit_bias == ((3, -100.0), (5, -100.0))


def test_the_card_tells_what_the_model_asks_for(serve: Serve, tiny_tokenizer: Tokenizer) -> None:
    http = serve(ServedModel(ScriptedEngine([]), tiny_tokenizer, replace(INFO, defaults=WISHES)))
    asked = {"temperature": 0.7, "top_k": 20, "top_p": 0.8, "min_p": 0.05, "repetition_penalty": 1.1}
    assert http.get("/v1/models/tiny").json()["default_sampling_params"] == asked
    http = serve(ServedModel(ScriptedEngine([]), tiny_tokenizer, INFO))
    assert "default_sampling_params" not in http.get("/v1/models/tiny").json()


def copied(bundle: Path, folder: Path, **changes: Any) -> Path:
    shutil.copytree(bundle, folder)
    file = folder / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return folder


def test_generation_config_ends_and_samples_as_in_transformers(
    serve: Serve, tiny_bundle: Path, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Greedy by its `do_sample`, and ended by a token that only generation_config.json names."""
    import torch
    from transformers import AutoModelForCausalLM

    prompt = tiny_tokenizer.encode("To be, or not")
    plain = copied(tiny_bundle, tmp_path / "plain", do_sample=False)

    def theirs(folder: Path) -> list[int]:
        model = AutoModelForCausalLM.from_pretrained(folder)
        written = model.generate(torch.tensor([prompt]), max_new_tokens=20)[0][len(prompt) :]
        return [int(token) for token in written]

    written = theirs(plain)
    at = next(n for n, token in enumerate(written) if n > 2 and token not in written[:n])
    ended = copied(tiny_bundle, tmp_path / "ended", do_sample=False, eos_token_id=[0, written[at]])
    assert theirs(ended) == written[: at + 1]
    http = serve(served_model(open_model(ended), "tiny", "x"))
    choice = post(http, "/v1/completions", prompt=prompt, max_tokens=20)["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert choice["text"] == tiny_tokenizer.decode(written[:at])


def test_generation_config_none_samples_as_openai_does(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = copied(tiny_bundle, tmp_path / "model", temperature=0.2, eos_token_id=[0, 7])
    model = open_model(folder)
    assert served_model(model, "m", "m").info.defaults == SamplingDefaults(temperature=0.2)
    neutral = ServeConfig(generation_config="none")
    assert served_model(model, "m", "m", neutral).info.defaults == SamplingDefaults()


def test_a_text_is_given_the_tokens_that_its_tokenizer_gives_it(serve: Serve) -> None:
    """A begin token may be named and still be put before no text; a template may write it."""
    template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
    named = small_tokenizer(["Hi there"], 290, special=["<s>"], bos_token="<s>", chat_template=template)
    for tokenizer, begin in ((named, []), (named.beginning_with_bos(), [named.bos_id])):
        engine = ScriptedEngine(["a"])
        http = serve(ServedModel(engine, tokenizer, INFO))
        plain = named.encode("Hi")
        assert post(http, "/tokenize", prompt="Hi")["tokens"] == [*begin, *plain]
        assert post(http, "/tokenize", prompt="Hi", add_special_tokens=False)["tokens"] == plain
        post(http, "/v1/completions", prompt="Hi")
        assert list(engine.requests[-1].prompt_ids) == [*begin, *plain]
        post(http, "/v1/chat/completions", messages=MESSAGES)
        assert list(engine.requests[-1].prompt_ids) == [named.bos_id, *plain]


def test_tools_use_their_own_template(serve: Serve) -> None:
    templates = {
        "default": "{% for m in messages %}{{ m.content }}{% endfor %}",
        "tool_use": TEMPLATES["tags"],
    }
    tokenizer = tokenizer_with(template=templates["tool_use"], special=MARKERS["tags"])
    tokenizer = Tokenizer(
        tokenizer.raw,
        tokenizer.config
        | {"chat_template": [{"name": name, "template": text} for name, text in templates.items()]},
    )
    engine = ScriptedEngine(['<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'])
    http = serve(ServedModel(engine, tokenizer, INFO))
    tools = [{"type": "function", "function": {"name": "now"}}]
    answer = post(http, "/v1/chat/completions", messages=MESSAGES, tools=tools)["choices"][0]
    assert answer["message"]["tool_calls"][0]["function"]["name"] == "now"
    prompt = tokenizer.decode(list(engine.requests[-1].prompt_ids))
    assert prompt == "Functions: now[user: Hi][assistant:"
    post(http, "/v1/chat/completions", messages=MESSAGES)
    assert tokenizer.decode(list(engine.requests[-1].prompt_ids)) == "Hi"


OPTIONS = (
    "{% for d in documents or [] %}<{{ d.title }}: {{ d.text }}>{% endfor %}"
    "{% for m in messages %}[{{ m.reasoning_content or '' }}{{ m.content }}]{% endfor %}"
    "{% if add_generation_prompt %}answer{{ ' thinking' if enable_thinking else '' }}:{% endif %}"
)


def test_requests_say_what_a_template_is_given(serve: Serve) -> None:
    rag = "rag{% for m in messages %}{{ m.content }}{% endfor %}"
    several = [{"name": "default", "template": OPTIONS}, {"name": "rag", "template": rag}]
    tokenizer = small_tokenizer(["Hi"], 290, chat_template=several)
    engine = ScriptedEngine(["a"])
    http = serve(ServedModel(engine, tokenizer, INFO))

    def prompt(**body: Any) -> str:
        counted = post(http, "/tokenize", **{"messages": MESSAGES} | body)["tokens"]
        post(http, "/v1/chat/completions", **{"messages": MESSAGES} | body)
        assert list(engine.requests[-1].prompt_ids) == counted
        return tokenizer.decode(counted)

    assert prompt() == "[Hi]answer:"
    assert prompt(chat_template_kwargs={"enable_thinking": True}) == "[Hi]answer thinking:"
    assert prompt(documents=[{"title": "T", "text": "x"}]) == "<T: x>[Hi]answer:"
    assert prompt(add_generation_prompt=False) == "[Hi]"
    assert prompt(chat_template="rag") == "ragHi"
    answered = [*MESSAGES, {"role": "assistant", "content": "Well", "reasoning_content": "so "}]
    assert prompt(messages=answered) == "[Hi][so Well]answer:"
    assert prompt(messages=answered, continue_final_message=True) == "[Hi][so Well"

    def refused(**body: Any) -> str:
        answer = http.post("/v1/chat/completions", json={"model": "tiny", "messages": MESSAGES} | body)
        assert answer.status_code == 400
        return str(answer.json()["error"]["message"])

    assert "no chat template named 'none'; it has default, rag" in refused(chat_template="none")
    assert "parameter of its own" in refused(chat_template_kwargs={"messages": []})
    assert "can't both be set" in refused(add_generation_prompt=True, continue_final_message=True)
    assert "only an answer" in refused(continue_final_message=True)


def test_guards_look_over_documents_and_variables_too(serve: Serve) -> None:
    tokenizer = small_tokenizer(["Hi"], 290, chat_template=OPTIONS + "{{ note }}")
    engine = ScriptedEngine(["a"])
    guards = GuardsConfig.model_validate({"secrets": {"input": "mask"}})
    http = serve(ServedModel(engine, tokenizer, INFO), ServeConfig(drain_seconds=1, guards=guards))
    post(
        http,
        "/v1/chat/completions",
        messages=[*MESSAGES, {"role": "assistant", "content": "x", "reasoning_content": "to c@mail.example"}],
        documents=[{"title": "T", "text": "Write to a@mail.example", "tags": ["b@mail.example"]}],
        chat_template_kwargs={"note": "d@mail.example", "enable_thinking": True},
    )
    prompt = tokenizer.decode(list(engine.requests[-1].prompt_ids))
    assert prompt == "<T: Write to [EMAIL]>[Hi][to [EMAIL]x]answer thinking:[EMAIL]"


def test_a_template_that_never_ends_stops_nobody_else(serve: Serve) -> None:
    template = (
        "{% if 'loop' in messages[0].content %}{% for i in range(99999) %}{% for j in range(99999) %}"
        "{% endfor %}{% endfor %}{% endif %}{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    tokenizer = small_tokenizer(["Hi"], 290, chat_template=template)
    http = serve(ServedModel(ScriptedEngine(["a"]), tokenizer, INFO))
    answers: list[httpx.Response] = []

    def loop() -> None:
        body = {"model": "tiny", "messages": [{"role": "user", "content": "loop"}]}
        answers.append(httpx.post(f"{http.base_url}/v1/chat/completions", json=body, timeout=60))

    threads = [threading.Thread(target=loop) for _ in range(2)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    served = 0
    while any(thread.is_alive() for thread in threads):
        assert http.get("/health").status_code == 200
        post(http, "/v1/chat/completions", messages=MESSAGES)
        served += 1
    assert served > 3
    assert time.monotonic() - began < 30
    for answer in answers:
        assert answer.status_code == 400
        assert "takes longer than 1 s" in answer.json()["error"]["message"]


def test_a_broken_template_is_told_when_the_model_opens(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = copied(tiny_bundle, tmp_path / "model")
    (folder / "chat_template.jinja").write_text("fine\n{% for m in messages %}")
    with pytest.raises(ChatTemplateError, match=r"chat_template\.jinja, line 2: .*not valid Jinja"):
        open_model(folder)
