"""A Slack of our own on 127.0.0.1: pages of two, refuses haste, fails and hangs up when told to."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

TOKEN = "xoxp-not-a-real-one"
PAGE = 2
Json = dict[str, Any]


@dataclass
class Workspace:
    """What the fake serves. `trouble` is taken from its front, one for each request; None is no trouble.

    `calls` are the requests that were answered well. From call `hold_at` on, requests wait for `go_on`.
    """

    users: list[Json] = field(default_factory=list)
    channels: dict[str, list[Json]] = field(default_factory=dict)
    messages: dict[str, list[Json]] = field(default_factory=dict)
    replies: dict[tuple[str, str], list[Json]] = field(default_factory=dict)
    trouble: list[str | None] = field(default_factory=list)
    calls: list[tuple[str, str, str]] = field(default_factory=list)
    hold_at: int | None = None
    held: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)

    def answer(self, method: str, query: dict[str, str]) -> Json:
        if method == "users.list":
            return _page("members", self.users, query)
        if method == "conversations.list":
            return _page("channels", self.channels.get(query["types"], []), query)
        if query["channel"] not in self.messages:
            return {"ok": False, "error": "not_in_channel"}
        if method == "conversations.history":
            newest_first = sorted(self.messages[query["channel"]], key=lambda m: m["ts"], reverse=True)
            wanted = [m for m in newest_first if float(m["ts"]) > float(query.get("oldest", 0))]
            return _page("messages", wanted, query)
        return _page("messages", self.replies[query["channel"], query["ts"]], query)


def _page(key: str, entries: list[Json], query: dict[str, str]) -> Json:
    begin = int(query.get("cursor", "0"))
    after = str(begin + PAGE) if begin + PAGE < len(entries) else ""
    return {"ok": True, key: entries[begin : begin + PAGE], "response_metadata": {"next_cursor": after}}


@contextmanager
def serving(workspace: Workspace) -> Iterator[str]:
    """The address of a server of this workspace's API."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            method = urlsplit(self.path).path.removeprefix("/api/")
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            query = {key: values[0] for key, values in parse_qs(body).items()}
            assert TOKEN not in self.path
            trouble = workspace.trouble.pop(0) if workspace.trouble else None
            if trouble == "hang up":
                self.close_connection = True
            elif self.headers["Authorization"] != f"Bearer {TOKEN}":
                self._send(200, {"ok": False, "error": "invalid_auth"})
            elif trouble == "429":
                self._send(429, {"ok": False, "error": "ratelimited"}, {"Retry-After": "7"})
            elif trouble is not None:
                self._send(int(trouble), {})
            elif workspace.hold_at is not None and len(workspace.calls) >= workspace.hold_at:
                workspace.held.set()
                workspace.go_on.wait(60)
                self.close_connection = True
            else:
                about = query.get("channel", query.get("types", ""))
                workspace.calls.append((method, about + query.get("ts", ""), query.get("cursor", "")))
                self._send(200, workspace.answer(method, query))

        def _send(self, status: int, content: Json, headers: dict[str, str] | None = None) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/api"
    finally:
        workspace.go_on.set()
        server.shutdown()
        thread.join()
        server.server_close()
