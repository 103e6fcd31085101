"""What both of Triton's clients can do with a server: the same over REST and gRPC."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from platen import __version__
from platen.engines.embedding.embedder import Embedder
from tests.serve.running import RunningServer, ScriptedEngine, wait_until

PROTOCOLS = {"http": tritonclient.http, "grpc": tritonclient.grpc}


@pytest.fixture(params=["http", "grpc"])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def client(protocol: str, request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(f"{protocol}_client")


@pytest.fixture
def library(protocol: str) -> ModuleType:
    return PROTOCOLS[protocol]


def texts_input(library: ModuleType, name: str, texts: Sequence[str], **how: bool) -> Any:
    array = np.array([text.encode() for text in texts], dtype=np.object_)
    tensor = library.InferInput(name, list(array.shape), "BYTES")
    tensor.set_data_from_numpy(array, **how)
    return tensor


def as_json(response: Any) -> dict[str, Any]:
    """A message, or REST's dictionary already."""
    if isinstance(response, dict):
        return response
    from google.protobuf.json_format import MessageToDict

    return MessageToDict(response)


def test_health_and_metadata(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert client.is_model_ready("org/minilm", "7")
    server = as_json(client.get_server_metadata())
    assert server == {"name": "platen", "version": __version__, "extensions": ["binary_tensor_data"]}


def test_models_say_what_they_take_and_give(client: Any) -> None:
    def shapes(tensors: list[dict[str, Any]]) -> list[tuple[str, str, list[int]]]:
        return [(t["name"], t["datatype"], [int(n) for n in t["shape"]]) for t in tensors]

    tiny = as_json(client.get_model_metadata("tiny"))
    assert (tiny["name"], tiny["versions"], tiny["platform"]) == ("tiny", ["1"], "platen_base")
    assert shapes(tiny["inputs"]) == [("text_input", "BYTES", [-1])]
    assert shapes(tiny["outputs"]) == [("text_output", "BYTES", [-1]), ("finish_reason", "BYTES", [-1])]
    minilm = as_json(client.get_model_metadata("org/minilm", "7"))
    assert (minilm["versions"], minilm["platform"]) == (["7"], "platen_embedding")
    assert shapes(minilm["inputs"]) == [("text", "BYTES", [-1])]
    assert shapes(minilm["outputs"]) == [("embedding", "FP32", [-1, -1])]


def test_texts_are_continued(client: Any, library: ModuleType, scripted: ScriptedEngine) -> None:
    result = client.infer(
        "tiny",
        [texts_input(library, "text_input", ["To be", "ünïcode"])],
        request_id="42",
        parameters={"max_tokens": 2, "temperature": 0.5, "seed": 7, "ignore_eos": True, "stop": "!"},
    )
    assert result.as_numpy("text_output").tolist() == [b"word0 word1 "] * 2
    assert result.as_numpy("finish_reason").tolist() == [b"length"] * 2
    response = as_json(result.get_response())
    assert response["id"] == "42"
    sampling = scripted.requests[0].sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.seed) == (2, 0.5, 7)
    assert (sampling.ignore_eos, sampling.stop) == (True, ("!",))


def test_parameters_may_be_tensors_of_one_element(
    client: Any, library: ModuleType, scripted: ScriptedEngine
) -> None:
    inputs = [texts_input(library, "text_input", ["x"])]
    for name, value in (("max_tokens", np.int64(3)), ("temperature", np.float32(0.25))):
        array = np.array([value])
        tensor = library.InferInput(name, [1], "INT64" if name == "max_tokens" else "FP32")
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    result = client.infer("tiny", inputs, model_version="1")
    assert result.as_numpy("text_output").tolist() == [b"word0 word1 word2 "]
    assert scripted.requests[0].sampling.temperature == 0.25


def test_texts_are_embedded(client: Any, library: ModuleType, minilm: Embedder) -> None:
    texts = ["A cat sits on the mat.", "Über allen Gipfeln"]
    result = client.infer(
        "org/minilm",
        [texts_input(library, "text", texts)],
        outputs=[library.InferRequestedOutput("embedding")],
    )
    vectors = result.as_numpy("embedding")
    assert (vectors.dtype, vectors.shape) == (np.float32, (2, 384))
    np.testing.assert_allclose(vectors, minilm.embed(minilm.token_ids(texts)), atol=1e-5)
    short = client.infer("org/minilm", [texts_input(library, "text", texts)], parameters={"dimensions": 8})
    assert short.as_numpy("embedding").shape == (2, 8)


@pytest.mark.parametrize(
    ("model", "version", "name", "parameters", "outputs", "status", "message"),
    [
        ("other", "", "text", {}, [], ("404", "StatusCode.NOT_FOUND"), "'other' does not exist"),
        ("tiny", "9", "text_input", {}, [], ("404", "StatusCode.NOT_FOUND"), "no version '9'"),
        ("tiny", "", "text_inputs", {}, [], ("400", "StatusCode.INVALID_ARGUMENT"), "needs the input"),
        (
            "tiny",
            "",
            "text_input",
            {"top_q": 1},
            [],
            ("400", "StatusCode.INVALID_ARGUMENT"),
            "parameter: 'top_q'",
        ),
        ("tiny", "", "text_input", {"n": 2}, [], ("400", "StatusCode.INVALID_ARGUMENT"), "parameter: 'n'"),
        ("tiny", "", "text_input", {"top_p": 2.5}, [], ("400", "StatusCode.INVALID_ARGUMENT"), "'top_p'"),
        ("tiny", "", "text_input", {}, ["text"], ("400", "StatusCode.INVALID_ARGUMENT"), "no output 'text'"),
        (
            "org/minilm",
            "",
            "text",
            {"seed": 1},
            [],
            ("400", "StatusCode.INVALID_ARGUMENT"),
            "parameter: 'seed'",
        ),
    ],
)
def test_errors_have_their_status_and_say_what_is_wrong(
    client: Any,
    protocol: str,
    library: ModuleType,
    model: str,
    version: str,
    name: str,
    parameters: dict[str, Any],
    outputs: list[str],
    status: tuple[str, str],
    message: str,
) -> None:
    with pytest.raises(InferenceServerException) as refused:
        client.infer(
            model,
            [texts_input(library, name, ["x"])],
            model_version=version,
            parameters=parameters,
            outputs=[library.InferRequestedOutput(output) for output in outputs],
        )
    assert refused.value.status() == status[protocol == "grpc"]
    assert message in refused.value.message()


def test_a_full_engine_says_so(
    client: Any, protocol: str, library: ModuleType, scripted: ScriptedEngine
) -> None:
    scripted.full_for = 3.0
    with pytest.raises(InferenceServerException) as refused:
        client.infer("tiny", [texts_input(library, "text_input", ["x"])])
    assert refused.value.status() == ("StatusCode.RESOURCE_EXHAUSTED" if protocol == "grpc" else "429")


def test_a_failed_engine_is_not_ready(client: Any, scripted: ScriptedEngine) -> None:
    scripted.failed = True
    assert not client.is_server_ready()
    assert not client.is_model_ready("tiny")
    assert client.is_model_ready("org/minilm")
    assert client.is_server_live()


def test_a_client_that_gives_up_frees_the_engine(
    both: RunningServer, grpc_client: Any, scripted: ScriptedEngine
) -> None:
    scripted.seconds_per_piece = 5
    inputs = [texts_input(tritonclient.grpc, "text_input", ["x"])]
    with pytest.raises(InferenceServerException, match="Deadline"):
        grpc_client.infer("tiny", inputs, client_timeout=0.2)
    wait_until(lambda: len(scripted.cancelled) == 1 and both.state.active == 0)


def test_draining_finishes_what_runs_and_takes_no_more(
    both: RunningServer, grpc_client: Any, scripted: ScriptedEngine
) -> None:
    scripted.seconds_per_piece = 0.05
    inputs = [texts_input(tritonclient.grpc, "text_input", ["x"])]
    answers: list[Any] = []
    call = grpc_client.async_infer(
        "tiny", inputs, lambda result, error: answers.append(result or error), parameters={"max_tokens": 4}
    )
    wait_until(lambda: both.state.active == 1)
    both.state.start_draining(30)
    with pytest.raises(InferenceServerException) as refused:
        grpc_client.infer("tiny", inputs)
    assert refused.value.status() == "StatusCode.UNAVAILABLE"
    assert not grpc_client.is_server_ready()
    wait_until(lambda: bool(answers))
    assert answers[0].as_numpy("text_output").tolist() == [b"word0 word1 word2 word3 "]
    del call
