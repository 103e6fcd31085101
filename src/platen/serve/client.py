"""Talks to a server, for the terminal: any that speaks OpenAI's chat API, and how ours changes its models."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import httpx

from platen.core.errors import PlatenError
from platen.engines.protocol import SamplingParams
from platen.engines.remote.events import DONE, data_lines
from platen.models.generation_config import SamplingDefaults
from platen.serve.access.keys import KEY_VARIABLE


class RemoteError(PlatenError):
    """A server can't be reached, refused a request or broke off an answer."""


class _Client:
    """One server. `url` is its address, with or without `/v1`. Raises RemoteError everywhere."""

    def __init__(self, url: str, *, api_key: str | None = None, patience: float = 120) -> None:
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._base = url.rstrip("/").removesuffix("/v1")
        timeout = httpx.Timeout(10, read=patience)
        self._http = httpx.Client(headers=headers, timeout=timeout, trust_env=False)

    def close(self) -> None:
        self._http.close()

    def _send(self, method: str, path: str, body: object = None) -> httpx.Response:
        try:
            request = self._http.build_request(method, self._base + path, json=body)
            return self._http.send(request, stream=True)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise RemoteError(
                f"can't reach {self._base}: {error}", hint="Is it running? platen serve starts a server."
            ) from None

    def _checked(self, response: httpx.Response) -> httpx.Response:
        """The response, if it is a success, read unless it is a stream."""
        streaming = response.headers.get("content-type", "").startswith("text/event-stream")
        try:
            if response.is_success and streaming:
                return response
            response.read()
        except httpx.HTTPError as error:
            raise RemoteError(f"{self._base} broke off: {error}") from None
        if response.is_success:
            return response
        try:
            message = str(response.json()["error"]["message"])
        except (ValueError, KeyError, TypeError):
            message = f"it answered {response.status_code}"
        wait = response.headers.get("retry-after")
        hint = f"Try again in {wait} s." if wait else None
        if response.status_code == 401:
            hint = f"Put a key of this server into the environment variable {KEY_VARIABLE}."
        raise RemoteError(f"{self._base}: {message}", hint=hint)


class AdminClient(_Client):
    """Sees and changes what a Platen server answers with; see `platen.serve.hub.admin`."""

    def __init__(self, url: str, *, api_key: str | None = None) -> None:
        super().__init__(url, api_key=api_key, patience=3600)  # a large model takes its time to load

    def routes(self) -> list[dict[str, Any]]:
        return list(self._checked(self._send("GET", "/admin/models")).json())

    def stable(self, name: str) -> str:
        """The reference of the model that answers to a name, the first one of a split."""
        for route in self.routes():
            if route["name"] == name:
                return str(route["variants"][0]["model"])
        raise RemoteError(
            f"nothing answers to {name} at {self._base}", hint="platen traffic lists what does."
        )

    def set_route(self, name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
        return dict(self._checked(self._send("PUT", f"/admin/models/{quote(name, safe='')}", spec)).json())

    def remove(self, name: str) -> None:
        self._checked(self._send("DELETE", f"/admin/models/{quote(name, safe='')}"))


class ChatClient(_Client):
    """One server, and the model it serves unless another is named."""

    def __init__(self, url: str, *, model: str | None = None, api_key: str | None = None) -> None:
        super().__init__(url, api_key=api_key)
        self._model = model

    def model(self) -> str:
        """The name of the model that answers."""
        if self._model is None:
            served = self._checked(self._send("GET", "/v1/models")).json()["data"]
            if not served:
                raise RemoteError(f"{self._base} serves no model.", hint="Start it with one: platen serve.")
            self._model = str(served[0]["id"])
        return self._model

    def sampling_defaults(self) -> SamplingDefaults:
        """How the model is sampled where a request doesn't say; nothing for a server that doesn't tell."""
        path = f"/v1/models/{quote(self.model(), safe='/')}"
        try:
            told = self._checked(self._send("GET", path)).json()["default_sampling_params"]
            return SamplingDefaults(**told)
        except (RemoteError, ValueError, KeyError, TypeError):
            return SamplingDefaults()

    def stream(self, messages: Sequence[Mapping[str, str]], sampling: SamplingParams) -> Iterator[str]:
        """The response to a conversation, as it streams. Closing the iterator stops the server's work."""
        body: dict[str, Any] = {
            "model": self.model(),
            "messages": list(messages),
            "stream": True,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "seed": sampling.seed,
            "stop": list(sampling.stop) or None,
        }
        # Only Platen and vLLM know these.
        ours = {"top_k": (sampling.top_k, 0), "min_p": (sampling.min_p, 0.0)}
        ours["repetition_penalty"] = (sampling.repetition_penalty, 1.0)
        body |= {name: value for name, (value, off) in ours.items() if value != off}
        given = {key: value for key, value in body.items() if value is not None}
        response = self._send("POST", "/v1/chat/completions", given)
        try:
            self._checked(response)
            yield from self._pieces(response)
        finally:
            response.close()

    def _pieces(self, response: httpx.Response) -> Iterator[str]:
        try:
            for data in data_lines(response.iter_bytes()):
                if data == DONE:
                    return
                piece = json.loads(data)
                if "error" in piece:
                    raise RemoteError(f"{self._base}: {piece['error']['message']}")
                for choice in piece["choices"][:1]:
                    yield choice["delta"].get("content") or ""
        except (httpx.HTTPError, ValueError, KeyError) as error:
            raise RemoteError(f"{self._base} broke off its answer: {error}") from None
        raise RemoteError(f"{self._base} broke off its answer.", hint="Ask again.")
