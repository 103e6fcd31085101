"""Every route of a server but `/v1/completions`, each asked in its own way, for the soak."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc
import httpx

from platen.serve.api.oip.messages import METHODS, SERVICE

TEXT_MODEL, EMBEDDING_MODEL = "soak", "embed"


@dataclass
class OtherRoutes:
    """Each of `routes` asks once, with something of its own for each number, and tells the status."""

    http: httpx.AsyncClient
    channel: grpc.aio.Channel

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, url: str, rpc_address: str) -> AsyncIterator[OtherRoutes]:
        async with (
            httpx.AsyncClient(base_url=url, timeout=60) as http,
            grpc.aio.insecure_channel(rpc_address) as channel,
        ):
            yield cls(http, channel)

    @property
    def routes(self) -> list[Callable[[int], Awaitable[str]]]:
        return [
            *(self.chat, self.streamed_chat, self.responses, self.embeddings, self.tokens, self.inference),
            *(self.rpc, self.metadata, self.metrics, self.traffic, self.a_second_model),
        ]

    async def chat(self, number: int, *, stream: bool = False) -> str:
        said = [{"role": "user", "content": "or not " * (number % 30 + 1)}]
        body = {"model": TEXT_MODEL, "messages": said, "max_tokens": 8, "stream": stream}
        return await self._post("/v1/chat/completions", body)

    async def streamed_chat(self, number: int) -> str:
        return await self.chat(number, stream=True)

    async def responses(self, number: int) -> str:
        body = {"model": TEXT_MODEL, "input": f"to be {number}", "max_output_tokens": 16}
        return await self._post("/v1/responses", body)

    async def embeddings(self, number: int) -> str:
        texts = ["to be " * (number % 50 + 1), "or not"]
        return await self._post("/v1/embeddings", {"model": EMBEDDING_MODEL, "input": texts})

    async def tokens(self, number: int) -> str:
        return await self._post("/tokenize", {"model": TEXT_MODEL, "prompt": f"to be {number}"})

    async def inference(self, number: int) -> str:
        text = {"name": "text_input", "datatype": "BYTES", "shape": [1], "data": [f"to be {number}"]}
        body = {"inputs": [text], "parameters": {"max_tokens": 4}}
        return await self._post(f"/v2/models/{TEXT_MODEL}/infer", body)

    async def rpc(self, number: int) -> str:
        request, response = METHODS["ModelInfer"]
        message = request(model_name=TEXT_MODEL)
        message.parameters["max_tokens"].int64_param = 4
        tensor = message.inputs.add(name="text_input", datatype="BYTES", shape=[1])
        tensor.contents.bytes_contents.append(b"to be %d" % number)
        call = self.channel.unary_unary(
            f"/{SERVICE}/ModelInfer", request.SerializeToString, response.FromString
        )
        try:
            await call(message, timeout=60)
        except grpc.aio.AioRpcError as error:
            return "429" if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED else error.code().name
        return "200"

    async def metadata(self, number: int) -> str:
        paths = ["/v1/models", "/health", "/openapi.json", "/", "/v2", f"/v2/models/{TEXT_MODEL}/ready"]
        return str((await self.http.get(paths[number % len(paths)])).status_code)

    async def metrics(self, number: int) -> str:
        return str((await self.http.get("/metrics")).status_code)

    async def traffic(self, number: int) -> str:
        """Divide the requests between the model and itself, which loads nothing."""
        [source] = [
            route["variants"][0]["model"]
            for route in (await self.http.get("/admin/models")).json()
            if route["name"] == TEXT_MODEL
        ]
        parts = [{"label": label, "model": source, "weight": number % 3 + 1.0} for label in ("a", "b")]
        return await self._change(TEXT_MODEL, {"variants": parts})

    async def a_second_model(self, number: int) -> str:
        """Now and then an embedding model is loaded under another name, and taken away again."""
        if number % 20:
            return await self.tokens(number)
        [source] = [
            route["variants"][0]["model"]
            for route in (await self.http.get("/admin/models")).json()
            if route["name"] == EMBEDDING_MODEL
        ]
        loaded = await self._change("second", {"model": source})
        if loaded != "200":
            return loaded
        return str((await self.http.delete("/admin/models/second")).status_code)

    async def _change(self, name: str, spec: dict[str, Any]) -> str:
        return str((await self.http.put(f"/admin/models/{name}", json=spec)).status_code)

    async def _post(self, path: str, body: dict[str, Any]) -> str:
        return str((await self.http.post(path, json=body)).status_code)
