"""What Triton's client does not do over gRPC: typed contents, wrong requests, a port that is taken."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from platen.core.state.embedded import EmbeddedState
from platen.serve.access.keys import Grant, Limits
from platen.serve.access.keystore import KeyStore
from platen.serve.access.layer import AccessControl
from platen.serve.api.oip.inference import OpenInference
from platen.serve.api.oip.messages import METHODS, SERVICE
from platen.serve.api.oip.rpc import RpcError, RpcServer
from platen.serve.config import ServeConfig
from platen.serve.context import ServeContext
from platen.serve.hub.model_hub import ModelHub
from platen.tokens.tokenizer import Tokenizer
from tests.serve.running import RunningServer, ScriptedEngine, serving

REQUEST, RESPONSE = METHODS["ModelInfer"]


@pytest.fixture
def infer(both: RunningServer) -> Iterator[Any]:
    assert both.rpc is not None
    with grpc.insecure_channel(both.rpc.address) as channel:
        yield channel.unary_unary(
            f"/{SERVICE}/ModelInfer",
            request_serializer=REQUEST.SerializeToString,
            response_deserializer=RESPONSE.FromString,
        )


def text_input(**contents: Any) -> dict[str, Any]:
    return {"name": "text_input", "datatype": "BYTES", "shape": [1], "contents": contents}


def test_typed_contents_are_answered_with_typed_contents(infer: Any) -> None:
    limit = {"name": "max_tokens", "datatype": "INT32", "shape": [1], "contents": {"int_contents": [1]}}
    answer = infer(REQUEST(model_name="tiny", inputs=[text_input(bytes_contents=[b"x"]), limit]))
    assert not answer.raw_output_contents
    assert list(answer.outputs[0].contents.bytes_contents) == [b"word0 "]
    assert answer.parameters["completion_tokens"].int64_param == 1
    text = {**text_input(bytes_contents=[b"x"]), "name": "text"}
    vector = infer(REQUEST(model_name="org/minilm", inputs=[text])).outputs[0]
    assert (list(vector.shape), len(vector.contents.fp32_contents)) == ([1, 384], 384)


@pytest.mark.parametrize(
    ("request_", "complaint"),
    [
        ({"inputs": []}, "needs the input"),
        ({"inputs": [text_input()]}, "has 0 elements"),
        ({"inputs": [text_input(bytes_contents=[b"\xff"])]}, "not UTF-8"),
        ({"inputs": [text_input()], "raw_input_contents": [b"", b""]}, "2 entries for 1 inputs"),
        ({"inputs": [text_input(bytes_contents=[b"x"])], "parameters": {"seed": {}}}, "'seed' has no value"),
        ({"inputs": [{**text_input(), "datatype": "FP16"}]}, "has 0 elements"),
        ({"inputs": [{**text_input(), "shape": [-1]}]}, "has the shape"),
    ],
)
def test_wrong_requests_are_invalid_arguments(infer: Any, request_: dict[str, Any], complaint: str) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        infer(REQUEST(model_name="tiny", **request_))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert complaint in refused.value.details()


def test_the_messages_are_those_of_triton() -> None:
    from tritonclient.grpc import service_pb2

    def fields(message: Any) -> dict[str, tuple[int, int, bool]]:
        return {f.full_name: (f.number, f.type, f.is_repeated) for f in message.fields} | {
            name: field for nested in message.nested_types for name, field in fields(nested).items()
        }

    ours = REQUEST.DESCRIPTOR.file.message_types_by_name
    theirs = service_pb2.DESCRIPTOR.message_types_by_name
    for name, message in ours.items():
        assert fields(message).items() <= fields(theirs[name]).items()
    assert sum(len(fields(message)) for message in ours.values()) > 60
    assert set(METHODS) <= set(
        service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
    )


def test_a_busy_server_says_when_to_come_again(infer: Any, scripted: Any) -> None:
    scripted.full_for = 2.5
    with pytest.raises(grpc.RpcError) as refused:
        infer(REQUEST(model_name="tiny", inputs=[text_input(bytes_contents=[b"x"])]))
    assert dict(refused.value.trailing_metadata())["retry-after"] == "3"


def test_a_port_that_is_taken_is_one_clear_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        context = ServeContext.of(ModelHub(), ServeConfig())
        server = RpcServer(
            OpenInference(context), context.state, AccessControl(ServeConfig()), "127.0.0.1", port
        )
        with pytest.raises(RpcError, match=f"can't listen on 127.0.0.1:{port} for gRPC"):
            asyncio.run(server.start())


def test_a_key_is_asked_for_and_its_limits_hold(
    scripted: ScriptedEngine, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    limits = Limits(requests_per_minute=2, tokens_per_minute=100_000)
    _, key = KeyStore(EmbeddedState(tmp_path)).create(Grant("alice", "alice", limits=limits))
    config = ServeConfig(keys="required", grpc_port=0, drain_seconds=1)
    asked = REQUEST(model_name="tiny", inputs=[text_input(bytes_contents=[b"x"])])

    def status(*metadata: tuple[str, str]) -> grpc.StatusCode:
        assert server.rpc is not None
        with grpc.insecure_channel(server.rpc.address) as channel:
            call = channel.unary_unary(
                f"/{SERVICE}/ModelInfer", REQUEST.SerializeToString, RESPONSE.FromString
            )
            try:
                call(asked, metadata=metadata)
            except grpc.RpcError as error:
                return error.code()
        return grpc.StatusCode.OK

    with serving(scripted, tiny_tokenizer, config, project_dir=tmp_path) as server:
        mine = ("authorization", f"Bearer {key}")
        assert status() == status(("authorization", "Bearer x")) == grpc.StatusCode.UNAUTHENTICATED
        assert [status(mine) for _ in range(2)] == [grpc.StatusCode.OK] * 2
        assert status(mine) == grpc.StatusCode.RESOURCE_EXHAUSTED
    [spent] = KeyStore(EmbeddedState(tmp_path)).read().spent.values()
    assert (spent.requests, spent.completion_tokens) == (2, 2 * 16)
