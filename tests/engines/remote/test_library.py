"""Upstreams that are not reached plainly: through proxies, with client certificates, over HTTP/2."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import h2.config
import h2.connection
import h2.events
import pytest
import trustme

from platen.core.errors import ConfigError
from platen.engines.remote.config import UpstreamConfig
from platen.engines.remote.connect import proxy_for
from platen.engines.remote.upstream import Upstream, UpstreamError
from tests.engines.remote.fake_upstream import answer, chat_event, drop, fake_upstream, raw, stream
from tests.engines.remote.test_upstream import ask, client

FINE = answer(200, {"said": "fine"})


@asynccontextmanager
async def proxy(target: str) -> AsyncIterator[tuple[str, list[str]]]:
    """A forward proxy of plain HTTP that leads every name to `target`; its address and what it is asked."""
    asked: list[str] = []
    address = urlsplit(target)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = (await reader.readline()).decode()
        method, url, version = first.split()
        asked.append(url)
        there, back = await asyncio.open_connection(address.hostname, address.port)
        back.write(f"{method} {urlsplit(url).path} {version}\r\n".encode())
        await asyncio.gather(_copy(reader, back), _copy(there, writer))

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def test_a_proxy_of_the_environment_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_upstream(FINE, stream(chat_event("a"), chat_event("b"))) as fake:
        async with proxy(fake.url) as (url, asked):
            monkeypatch.setenv("http_proxy", url)
            async with client("http://upstream.invalid/v1") as upstream:
                assert await ask(upstream) == {"said": "fine", "status": 200}
                found = await upstream.post("/chat/completions", b'{"stream": true}')
                body = found.body
                while piece := await found.more():
                    body += piece
                found.close()
    assert asked[0] == "http://upstream.invalid/v1/chat/completions"
    assert fake.requests[0].headers["host"] == "upstream.invalid"
    assert found.streams
    assert body.count(b"data: ") == 3


def test_which_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    def proxy_of(url: str, **settings: str) -> str | None:
        return proxy_for(UpstreamConfig.model_validate({"name": "a", "base_url": url, **settings}))

    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    assert proxy_of("https://api.example.com/v1") is None
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", "inside.example.com,.local.example")
    assert proxy_of("https://api.example.com/v1") == "http://proxy:3128"
    assert proxy_of("http://api.example.com/v1") is None
    assert proxy_of("https://inside.example.com/v1") is None
    assert proxy_of("https://a.local.example/v1") is None
    assert proxy_of("https://127.0.0.1:9000/v1") is None
    assert proxy_of("https://api.example.com/v1", proxy="none") is None


async def test_an_unreachable_proxy_is_an_unreachable_upstream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    async with client("http://upstream.invalid/v1", max_retries=0) as upstream:
        with pytest.raises(UpstreamError, match="can't be reached"):
            await ask(upstream)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_tls(authority: trustme.CA, *, asks_clients: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    if asks_clients:
        authority.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


@pytest.fixture
def files(authority: trustme.CA, tmp_path: Path) -> Path:
    """A folder with the authority's certificate and a client's, as a user would keep them."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    mine = authority.issue_cert("gateway.example")
    mine.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "mine.pem"))
    return tmp_path


async def test_a_client_certificate_is_shown(authority: trustme.CA, files: Path) -> None:
    certificates = {"ca_file": str(files / "ca.pem"), "client_certificate": str(files / "mine.pem")}
    with fake_upstream(FINE, tls=server_tls(authority, asks_clients=True)) as fake:
        async with client(fake.url, **certificates) as upstream:
            assert (await ask(upstream))["said"] == "fine"
        async with client(fake.url, ca_file=certificates["ca_file"], max_retries=0) as upstream:
            with pytest.raises(UpstreamError):
                await ask(upstream)
        async with client(fake.url, max_retries=0) as upstream:
            with pytest.raises(UpstreamError, match="can't be reached"):
                await ask(upstream)


def test_certificates_that_are_none_are_refused_at_once(files: Path) -> None:
    (files / "no.pem").write_text("nothing")
    for name in ("no.pem", "not-there.pem"):
        config = UpstreamConfig(name="theirs", base_url="https://127.0.0.1/v1", client_certificate=name)
        with pytest.raises(ConfigError, match="the certificates of the upstream theirs"):
            Upstream(config.located(files))


async def test_failures_are_told_as_by_the_plain_client(authority: trustme.CA, files: Path) -> None:
    settings = {"ca_file": str(files / "ca.pem"), "max_retries": 0}
    half = stream(chat_event("a"), done=False)
    with fake_upstream(drop(), raw(b"hello\r\n\r\n", close=True), half, tls=server_tls(authority)) as fake:
        fake.script.append(fake.silence())
        async with client(fake.url, read_seconds=0.3, **settings) as upstream:
            with pytest.raises(UpstreamError, match="broke off"):
                await ask(upstream)
            with pytest.raises(UpstreamError, match="does not answer in HTTP"):
                await ask(upstream)
            found = await upstream.post("/chat/completions", b"{}")
            with pytest.raises(UpstreamError, match="broke off"):
                await found.more()
            found.close()
            with pytest.raises(UpstreamError, match="silent") as silent:
                await ask(upstream)
            assert silent.value.status == 504
    assert upstream.active == 0


async def test_a_stream_that_is_closed_ends_at_the_service(authority: trustme.CA, files: Path) -> None:
    with fake_upstream(tls=server_tls(authority)) as fake:
        fake.script.append(fake.stream_without_end(chat_event("a")))
        async with client(fake.url, ca_file=str(files / "ca.pem")) as upstream:
            found = await upstream.post("/chat/completions", b"{}")
            found.close()
            assert await asyncio.to_thread(fake.hung_up.wait, 10)


async def _speak_http2(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers every request of one connection with its own body."""
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    connection.initiate_connection()
    writer.write(connection.data_to_send())
    while data := await reader.read(65536):
        for event in connection.receive_data(data):
            if isinstance(event, h2.events.DataReceived) and event.data:
                said = {"said": json.loads(event.data), "over": "h2"}
                headers = [(":status", "200"), ("content-type", "application/json")]
                connection.send_headers(event.stream_id, headers)
                connection.send_data(event.stream_id, json.dumps(said).encode(), end_stream=True)
        writer.write(connection.data_to_send())
        await writer.drain()
    writer.close()


async def test_http2_is_spoken_where_it_is_offered(authority: trustme.CA, files: Path) -> None:
    tls = server_tls(authority)
    tls.set_alpn_protocols(["h2", "http/1.1"])
    server = await asyncio.start_server(_speak_http2, "127.0.0.1", 0, ssl=tls)
    async with server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        async with client(url, http2=True, ca_file=str(files / "ca.pem")) as upstream:
            answers = await asyncio.gather(*(ask(upstream) for _ in range(5)))
    assert answers == [{"said": {"q": 1}, "over": "h2", "status": 200}] * 5
