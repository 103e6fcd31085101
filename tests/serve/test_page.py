"""The web page in a real browser against a real server."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from platen.core.state.embedded import EmbeddedState
from platen.models.generation_config import SamplingDefaults
from platen.prompts.templates import apply_chat_template
from platen.serve.access.keys import Grant
from platen.serve.access.keystore import KeyStore
from platen.serve.config import ServeConfig
from platen.serve.hub.served_model import ModelInfo, ServedModel
from platen.tokens.count import Counter
from platen.tokens.tokenizer import Tokenizer
from tests.browser import chromium
from tests.engines.remote.fake_upstream import chat_stream, fake_upstream
from tests.serve.running import RunningServer, ScriptedEngine, serving, wait_until
from tests.serve.test_process import process

expect.set_options(timeout=15_000)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


class Tab:
    """The page as a reader sees it, and every complaint of the browser about it."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda message: message.type == "error" and self.complaints.append(message.text))
        self.field = page.get_by_role("textbox", name="Your")
        self.log = page.get_by_role("log")
        self.alert = page.get_by_role("alert")
        self.stop = page.get_by_role("button", name="Stop")

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name, exact=True)

    def open(self, server: RunningServer) -> None:
        self.page.goto(server.url)
        expect(self.page.locator("#model-name")).to_have_text("tiny")

    def say(self, text: str) -> None:
        self.field.fill(text)
        self.field.press("Enter")


@pytest.fixture
def tab(browser: Browser) -> Iterator[Tab]:
    context = browser.new_context(viewport={"width": 1100, "height": 800})
    context.set_default_timeout(10_000)
    yield Tab(context.new_page())
    context.close()


def watch_lengths(tab: Tab, count: int) -> list[int]:
    """The length of the shown text each time that it is longer than before, `count` times."""
    lengths: list[int] = []
    deadline = time.monotonic() + 10
    while len(lengths) < count:
        assert time.monotonic() < deadline, f"the text does not grow: {lengths}"
        length = len(tab.log.inner_text())
        if not lengths or length > lengths[-1]:
            lengths.append(length)
    return lengths


@pytest.mark.parametrize("mode", ["Write", "Chat"])
def test_a_message_streams_and_ends(
    tab: Tab, scripted: ScriptedEngine, scripted_server: RunningServer, mode: str
) -> None:
    scripted.seconds_per_piece = 0.03
    tab.open(scripted_server)
    tab.page.get_by_text(mode, exact=True).click()
    tab.say("Good morrow")
    expect(tab.log).to_contain_text("Good morrow")
    assert len(watch_lengths(tab, 6)) == 6
    expect(tab.log).to_have_attribute("aria-busy", "true")
    expect(tab.log).to_contain_text("".join(scripted.pieces).strip())
    expect(tab.log).to_have_attribute("aria-busy", "false")
    expect(tab.page.locator("#facts-line")).to_contain_text("40 tokens")
    expect(tab.page.locator("#facts-line")).to_contain_text("tokens/s")
    expect(tab.field).to_have_value("")
    expect(tab.field).to_be_focused()
    assert tab.complaints == []


def test_the_text_field_counts_as_the_command_line_does(
    tab: Tab, scripted_server: RunningServer, tiny_tokenizer: Tokenizer
) -> None:
    text = "Good morrow, cousin. Ünï 🙂 <|end|>\n  12"
    tab.open(scripted_server)
    tab.field.fill(text)
    tokens = Counter(tiny_tokenizer).count("-", io.BytesIO(text.encode())).tokens
    expect(tab.page.locator("#count")).to_have_text(f"{tokens} tokens in the field")
    tab.field.fill("")
    expect(tab.page.locator("#count")).to_have_text("")
    assert tab.complaints == []


@pytest.mark.parametrize("how", ["button", "Escape"])
def test_stopping_keeps_the_text_and_frees_the_engine(
    tab: Tab, scripted: ScriptedEngine, scripted_server: RunningServer, how: str
) -> None:
    scripted.seconds_per_piece = 0.1
    tab.open(scripted_server)
    tab.say("Good morrow")
    watch_lengths(tab, 3)
    if how == "button":
        tab.stop.click()
    else:
        tab.page.keyboard.press("Escape")
    wait_until(lambda: not scripted.running)
    expect(tab.button("Send")).to_be_visible()
    expect(tab.page.locator("#facts-line")).to_contain_text("stopped")
    expect(tab.log).to_contain_text("word0 word1")
    expect(tab.alert).to_be_hidden()
    text = tab.log.inner_text()
    time.sleep(0.3)
    assert tab.log.inner_text() == text
    assert tab.complaints == []


def test_the_model_goes_on_with_its_own_text(
    tab: Tab, scripted: ScriptedEngine, scripted_server: RunningServer, tiny_tokenizer: Tokenizer
) -> None:
    scripted.pieces = ["to be"]
    tab.open(scripted_server)
    tab.say("Or not ")
    tab.button("Continue").click()
    expect(tab.log).to_have_text("Or not to beto be")
    tab.say(", that")
    expect(tab.log).to_have_text("Or not to beto be, thatto be")
    tab.button("Try again").click()
    wait_until(lambda: len(scripted.requests) == 4)
    prompts = [tiny_tokenizer.decode(request.prompt_ids) for request in scripted.requests]
    assert prompts == ["Or not ", "Or not to be", "Or not to beto be, that", "Or not to beto be, that"]
    expect(tab.log).to_have_text("Or not to beto be, thatto be")


def test_a_chat_sends_its_turns_and_instructions(
    tab: Tab, scripted: ScriptedEngine, scripted_server: RunningServer, tiny_tokenizer: Tokenizer
) -> None:
    scripted.pieces = ["\n", "Well", " met."]
    tab.open(scripted_server)
    tab.button("Settings").click()
    tab.page.get_by_label("Instructions for chats").fill("Be kind.")
    tab.button("Done").click()
    tab.page.get_by_text("Chat", exact=True).click()
    tab.say("Hello")
    expect(tab.button("Copy")).to_be_visible()
    tab.say("And you?")
    wait_until(lambda: len(scripted.requests) == 2)
    expected = apply_chat_template(
        tiny_tokenizer,
        [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "Well met."},
            {"role": "user", "content": "And you?"},
        ],
    )
    assert tiny_tokenizer.decode(scripted.requests[1].prompt_ids) == expected


def test_settings_reach_the_engine_and_last(
    tab: Tab, scripted: ScriptedEngine, scripted_server: RunningServer
) -> None:
    tab.open(scripted_server)
    tab.button("Settings").click()
    tab.page.get_by_label("Temperature").fill("0.3")
    tab.page.get_by_label("Top-p").fill("0.5")
    tab.page.get_by_label("Most tokens to write").fill("7")
    tab.page.get_by_label("Seed").fill("11")
    tab.page.keyboard.press("Escape")
    tab.page.reload()
    tab.say("x")
    expect(tab.page.locator("#facts-line")).to_contain_text("7 tokens")
    expect(tab.page.locator("#facts-line")).to_contain_text("at the length you set")
    sampling = scripted.requests[0].sampling
    assert (sampling.temperature, sampling.top_p, sampling.max_tokens, sampling.seed) == (0.3, 0.5, 7, 11)


def test_what_a_model_asks_for_holds_until_somebody_changes_it(tab: Tab, tiny_tokenizer: Tokenizer) -> None:
    engine = ScriptedEngine(["a"])
    info = ModelInfo(
        "tiny",
        128,
        12_345,
        "base",
        "f" * 16,
        1_700_000_000,
        defaults=SamplingDefaults(temperature=0.6, top_p=0.9),
    )
    server = RunningServer([ServedModel(engine, tiny_tokenizer, info)], ServeConfig(drain_seconds=1))
    try:
        tab.open(server)
        tab.say("x")
        wait_until(lambda: len(engine.requests) == 1)
        tab.button("Settings").click()
        tab.page.get_by_label("Temperature").fill("0.3")
        tab.button("Done").click()
        tab.page.reload()
        tab.say("x")
        wait_until(lambda: len(engine.requests) == 2)
        tab.button("Settings").click()
        tab.button("Back to defaults").click()
        tab.button("Done").click()
        tab.say("x")
        wait_until(lambda: len(engine.requests) == 3)
    finally:
        server.stop()
    found = [(request.sampling.temperature, request.sampling.top_p) for request in engine.requests]
    assert found == [(0.6, 0.9), (0.3, 0.9), (0.6, 0.9)]


def test_shift_enter_makes_a_new_line(
    tab: Tab, scripted: ScriptedEngine, scripted_server: RunningServer
) -> None:
    tab.open(scripted_server)
    tab.field.fill("ROMEO:")
    tab.field.press("Shift+Enter")
    tab.field.press_sequentially("My")
    expect(tab.field).to_have_value("ROMEO:\nMy")
    assert scripted.requests == []


def test_the_models_text_is_never_markup(
    tab: Tab, scripted: ScriptedEngine, scripted_server: RunningServer
) -> None:
    scripted.pieces = [
        "<img src=x ",
        "onerror=\"document.title='owned'\">",
        "<script>alert(1)</script>",
        "**b**",
    ]
    tab.open(scripted_server)
    tab.say("<b>bold</b>")
    expect(tab.log).to_have_text("<b>bold</b>" + "".join(scripted.pieces))
    assert tab.log.locator("img, script, b").count() == 0
    assert tab.page.title() == "tiny · Platen"


def test_a_text_goes_on_beyond_the_window(tab: Tab, endless_server: RunningServer) -> None:
    """The window has 128 tokens, 200 are wished for: more and more of the beginning goes out of sight."""
    facts = tab.page.locator("#facts-line")
    tab.open(endless_server)
    tab.say("To be")
    expect(facts).to_contain_text("200 tokens")
    expect(facts).to_contain_text("at the length you set · it sees only the last 128 tokens")
    tab.say("日本語も少し。" * 60)
    expect(tab.log.locator(".run")).to_have_count(4)
    expect(facts).to_contain_text("200 tokens")
    expect(tab.alert).to_be_hidden()
    assert tab.complaints == []


def test_a_message_too_long_for_a_chat_comes_back_into_the_field(
    tab: Tab, endless_server: RunningServer
) -> None:
    tab.open(endless_server)
    tab.page.get_by_text("Chat", exact=True).click()
    tab.say("Well?")
    expect(tab.button("Copy")).to_be_visible()
    answer = tab.log.inner_text()
    tab.say("Well? " * 200)
    expect(tab.alert).to_contain_text("That is too long for this model. The prompt has")
    expect(tab.button("Open settings")).to_be_hidden()
    expect(tab.field).to_have_value("Well? " * 200)
    expect(tab.log).to_have_text(answer, use_inner_text=True)
    tab.say("Now?")
    expect(tab.log.locator(".run")).to_have_count(4)
    expect(tab.button("Copy")).to_be_visible()
    expect(tab.alert).to_be_hidden()


def test_a_reload_keeps_text_mode_and_draft(
    tab: Tab, scripted: ScriptedEngine, scripted_server: RunningServer
) -> None:
    scripted.seconds_per_piece = 0.05
    tab.open(scripted_server)
    tab.page.get_by_text("Chat", exact=True).click()
    tab.say("<b>Hello</b>")
    expect(tab.log).to_contain_text("word3")
    tab.field.fill("And")
    tab.page.reload()
    expect(tab.log).to_contain_text("<b>Hello</b>")
    expect(tab.log).to_contain_text("word0 word1 word2 word3")
    expect(tab.field).to_have_value("And")
    expect(tab.page.get_by_role("radio", name="Chat")).to_be_checked()
    wait_until(lambda: not scripted.running)
    tab.button("Start afresh").click()
    tab.page.reload()
    expect(tab.page.locator("#log")).to_be_empty()
    expect(tab.page.get_by_role("radio", name="Chat")).to_be_checked()
    assert tab.complaints == []


def test_a_server_killed_in_the_middle(tab: Tab, tiny_bundle: Path) -> None:
    with process(tiny_bundle, seconds_per_step=0.05, drain_seconds=1) as (server, url):
        tab.page.goto(url)
        expect(tab.page.locator("#model-name")).to_have_text("tiny")
        tab.say("To be ")
        watch_lengths(tab, 3)
        server.kill()
        expect(tab.alert).to_contain_text("The text broke off. The connection broke off")
    text = tab.log.inner_text()
    assert text.startswith("To be ")
    assert len(text) > len("To be ")
    tab.alert.get_by_role("button", name="Try again").click()
    expect(tab.alert).to_contain_text("Is “platen serve” still running?")


def test_a_phone_fits_it_all(
    browser: Browser, scripted: ScriptedEngine, scripted_server: RunningServer
) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True)
    tab = Tab(context.new_page())
    tab.open(scripted_server)
    tab.field.fill("A" * 200)
    tab.button("Send").tap()
    expect(tab.button("Continue")).to_be_visible()
    assert tab.page.evaluate("document.documentElement.scrollWidth") == 360
    for name in ("Send", "Settings", "Start afresh"):
        box = tab.button(name).bounding_box()
        assert box is not None
        assert min(box["width"], box["height"]) >= 40
        assert 0 <= box["x"] <= 360 - box["width"]
        assert 0 <= box["y"] <= 640 - box["height"]
    context.close()


def test_a_server_that_is_gone_is_said_with_what_to_do(tab: Tab, tiny_tokenizer: Tokenizer) -> None:
    engine = ScriptedEngine(["hello"])
    with serving(engine, tiny_tokenizer) as server:
        tab.open(server)
    tab.say("Anyone?")
    expect(tab.alert).to_contain_text("The server can't be reached.")
    expect(tab.alert).to_contain_text("platen serve")
    expect(tab.log).to_contain_text("Anyone?")
    tab.button("Try again").last.click()
    expect(tab.alert).to_contain_text("The server can't be reached.")


def test_a_busy_server_is_tried_again_after_a_countdown(
    tab: Tab, scripted: ScriptedEngine, scripted_server: RunningServer
) -> None:
    scripted.full_for = 2.0
    tab.open(scripted_server)
    tab.say("Good morrow")
    expect(tab.alert).to_contain_text("The server is busy. Trying again in 2 s…")
    expect(tab.alert).to_contain_text("Trying again in 1 s…")
    scripted.full_for = None
    expect(tab.log).to_contain_text("word39")
    expect(tab.alert).to_be_hidden()
    assert tab.log.inner_text().count("Good morrow") == 1


def test_a_text_that_breaks_off_keeps_what_came_until_tried_again(
    tab: Tab, scripted: ScriptedEngine, scripted_server: RunningServer
) -> None:
    scripted.break_after = 3
    tab.open(scripted_server)
    tab.say("Say: ")
    expect(tab.alert).to_contain_text("The text broke off. The server failed")
    expect(tab.log).to_have_text("Say: word0 word1 word2 ")
    scripted.break_after = None
    tab.alert.get_by_role("button", name="Try again").click()
    expect(tab.log).to_have_text("Say: " + "".join(scripted.pieces))


def test_a_key_is_asked_for_and_kept_while_the_tab_is_open(
    tab: Tab, scripted: ScriptedEngine, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    _, key = KeyStore(EmbeddedState(tmp_path)).create(Grant("alice", "alice"))
    config = ServeConfig(keys="required", drain_seconds=1)
    with serving(scripted, tiny_tokenizer, config, project_dir=tmp_path) as server:
        tab.page.goto(server.url)
        expect(tab.alert).to_contain_text("This server asks for an API key.")
        tab.button("Open settings").focus()
        tab.page.keyboard.press("Enter")
        expect(tab.page.get_by_label("API key")).to_be_focused()
        tab.page.keyboard.type("wrong")
        tab.page.keyboard.press("Enter")
        expect(tab.alert).to_contain_text("API key is not valid")
        expect(tab.alert.get_by_role("button")).to_have_text(["Open settings", "Dismiss"])
        tab.button("Open settings").click()
        tab.page.get_by_label("API key").fill(key)
        tab.button("Done").click()
        expect(tab.page.locator("#model-name")).to_have_text("tiny")
        expect(tab.alert).to_be_hidden()
        expect(tab.field).to_be_focused()
        tab.page.reload()
        tab.say("Good morrow")
        expect(tab.log).to_contain_text("word39")
        assert key not in tab.page.evaluate("JSON.stringify(localStorage)")


def lists_only(tab: Tab, *names: str) -> None:
    """Let the server's list have these upstreams, and none of its own models."""
    cards = [{"id": name, "object": "model", "created": 0, "owned_by": "upstream"} for name in names]
    tab.page.route("**/v1/models", lambda route: route.fulfill(json={"object": "list", "data": cards}))


def test_a_server_without_a_model_for_it_says_what_to_do(tab: Tab, scripted_server: RunningServer) -> None:
    lists_only(tab)
    tab.page.clock.install()
    tab.page.goto(scripted_server.url)
    expect(tab.page.get_by_role("heading", level=2)).to_have_text("This server has no model for this page.")
    expect(tab.page.locator("#welcome-text")).to_contain_text("platen serve FOLDER")
    expect(tab.page.locator("#model-name")).to_have_text("no model")
    expect(tab.field).to_be_hidden()
    expect(tab.page.locator("#starters")).to_be_hidden()
    expect(tab.alert).to_be_hidden()
    tab.page.unroute("**/v1/models")  # a model is added while the page is open
    tab.page.clock.run_for(16_000)
    expect(tab.page.locator("#model-name")).to_have_text("tiny")
    expect(tab.field).to_be_visible()


def test_on_a_gateway_one_chats_with_the_upstream_of_ones_choice(
    tab: Tab, scripted: ScriptedEngine, tiny_tokenizer: Tokenizer
) -> None:
    with fake_upstream() as large, fake_upstream(chat_stream("Fine", ", thanks.")) as other:
        urls = {"large": large.url, "other": other.url}
        upstreams = [{"name": name, "base_url": url, "max_retries": 0} for name, url in urls.items()]
        config = ServeConfig.model_validate({"drain_seconds": 1, "upstreams": upstreams})
        with serving(scripted, tiny_tokenizer, config) as server:
            lists_only(tab, *urls)
            tab.page.goto(server.url)
            expect(tab.page.locator("#welcome-text")).to_contain_text("Another service answers")
            expect(tab.page.locator("#modes")).to_be_hidden()
            tab.page.get_by_label("Model").select_option("other")
            tab.say("How are you?")
            expect(tab.log).to_contain_text("Fine, thanks.")
            expect(tab.page.locator("#facts-line")).to_contain_text("3 tokens")
    (asked,) = other.requests
    assert asked.body["messages"] == [{"role": "user", "content": "How are you?"}]
    known = {"model", "messages", "max_tokens", "temperature", "top_p", "stream", "stream_options"}
    assert asked.body.keys() == known, "other services may refuse what is not OpenAI's"
    assert (large.requests, scripted.requests, tab.complaints) == ([], [], [])


def test_everything_has_a_name(tab: Tab, scripted_server: RunningServer) -> None:
    tab.open(scripted_server)
    tab.button("Settings").click()
    unnamed = tab.page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, textarea")]
            .filter((e) => !(e.ariaLabel || e.textContent.trim() || e.labels?.length))
            .map((e) => e.outerHTML)"""
    )
    assert unnamed == []
    assert tab.page.evaluate("document.documentElement.lang") == "en"
