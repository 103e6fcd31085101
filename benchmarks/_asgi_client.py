"""A client right at an application: sends one request, may hang up early, and judges the answer."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from _shots import Shot
from starlette.types import Message


class Client:
    """The other end of an ASGI connection."""

    def __init__(self, shot: Shot) -> None:
        self._shot = shot
        self._sent = False
        self._gone = asyncio.Event()
        self._messages = 0
        self._ended = False
        self._content = b""
        self.status = 0
        self._type = ""
        self._deliberate = False

    def scope(self) -> dict[str, Any]:
        given = {"host": "127.0.0.1", "content-length": str(len(self._shot.body))} | dict(self._shot.headers)
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": self._shot.method,
            "scheme": "http",
            "path": self._shot.path,
            "raw_path": self._shot.path.encode(),
            "query_string": self._shot.query.encode(),
            "root_path": "",
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in given.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8000),
            "state": {},
        }

    async def receive(self) -> Message:
        if self._shot.stay == 0:
            return {"type": "http.disconnect"}
        if not self._sent:
            self._sent = True
            return {"type": "http.request", "body": self._shot.body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self._messages += 1
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = dict(message["headers"])
            self._type = headers.get(b"content-type", b"").decode()
            self._deliberate = self.status == 503 and b"retry-after" in headers
        else:
            self._content += message.get("body", b"")
            self._ended = not message.get("more_body", False)
        if self._ended or self._messages == self._shot.stay:
            self._gone.set()

    def problem(self) -> str | None:
        """What is wrong with the answer; nothing can be asked of one whose client has left."""
        if self.status >= 500 and not self._deliberate:
            return f"{self.status}: {self._content[:300]!r}"
        if self._shot.stay is not None:
            return None
        if not self._ended:
            return "the answer broke off" if self.status else "no answer"
        last = b"event: response." if self._shot.path == "/v1/responses" else b"data: [DONE]"
        if self._type.startswith("text/event-stream") and last not in self._content[-4000:]:
            return f"a stream ended as {self._content[-300:]!r}"
        if self.status >= 400 and self._shot.method != "HEAD" and not self._is_error_object():
            return f"{self.status} without an error object: {self._content[:300]!r}"
        return None

    def _is_error_object(self) -> bool:
        """OpenAI's, or under /v2 the Open Inference Protocol's, which is a text."""
        try:
            error = json.loads(self._content)["error"]
            if self._shot.path.startswith("/v2") and isinstance(error, str):
                return bool(error)
            return bool(error["message"])
        except (ValueError, KeyError, TypeError):
            return False
