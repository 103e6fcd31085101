"""The protocol over plain HTTP: JSON, mixed with binary tensors, and bodies that are wrong."""

from __future__ import annotations

import json
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from platen.engines.embedding.embedder import Embedder
from tests.serve.running import RunningServer

TEXT = {"name": "text_input", "datatype": "BYTES", "shape": [1], "data": ["x"]}


HTTP = httpx.Client(verify=False)  # loading certificates takes longer than most tests


def infer(server: RunningServer, model: str = "tiny", **body: Any) -> httpx.Response:
    return HTTP.post(f"{server.url}/v2/models/{model}/infer", json=body)


def test_plain_json(both: RunningServer, minilm: Embedder) -> None:
    answer = infer(both, inputs=[TEXT], id="a", parameters={"max_tokens": 2}).json()
    assert answer == {
        "model_name": "tiny",
        "model_version": "1",
        "id": "a",
        "parameters": {"prompt_tokens": 1, "completion_tokens": 2},
        "outputs": [
            {"name": "text_output", "datatype": "BYTES", "shape": [1], "data": ["word0 word1 "]},
            {"name": "finish_reason", "datatype": "BYTES", "shape": [1], "data": ["length"]},
        ],
    }
    text = {"name": "text", "datatype": "BYTES", "shape": [2, 1], "data": [["x"], ["y"]]}
    output = infer(both, "org/minilm", inputs=[text]).json()["outputs"][0]
    vectors = np.array(output["data"]).reshape(output["shape"])
    np.testing.assert_allclose(vectors, minilm.embed(minilm.token_ids(["x", "y"])), atol=1e-5)


def test_json_and_binary_in_one_answer(both: RunningServer) -> None:
    outputs = [
        {"name": "text_output", "parameters": {"binary_data": True}},
        {"name": "finish_reason"},
    ]
    answer = infer(both, inputs=[TEXT], outputs=outputs, parameters={"max_tokens": 1})
    length = int(answer.headers["inference-header-content-length"])
    text, reason = json.loads(answer.content[:length])["outputs"]
    assert text["parameters"] == {"binary_data_size": 10}
    assert answer.content[length:] == b"\x06\0\0\0word0 "
    assert reason["data"] == ["length"]


def test_metadata_and_readiness(both: RunningServer) -> None:
    def get(path: str) -> httpx.Response:
        return HTTP.get(f"{both.url}/v2{path}")

    assert get("/health/live").json() == {"live": True}
    assert get("/health/ready").json() == {"ready": True}
    assert get("/models/org/minilm/versions/7/ready").json() == {"name": "org/minilm", "ready": True}
    missing = get("/models/other")
    assert (missing.status_code, list(missing.json())) == (404, ["error"])
    assert "'other' does not exist" in missing.json()["error"]
    both.state.draining = True
    assert get("/health/ready").status_code == 503


@pytest.mark.parametrize(
    ("body", "headers", "status", "message"),
    [
        (b"{", {}, 400, "Invalid JSON"),
        (b"[]", {}, 400, "must be a JSON object"),
        (b"{}", {}, 400, "Missing required parameter: 'inputs'"),
        (b'{"inputs": []}', {}, 400, "'inputs'"),
        (b'{"inputs": [{"name": "text_input"}]}', {}, 400, "inputs[0]"),
        (b"{}", {"inference-header-content-length": "9"}, 400, "not a length within the body"),
        (b"{}", {"inference-header-content-length": "-1"}, 400, "not a length within the body"),
        (b"{}", {"content-encoding": "gzip"}, 415, "uncompressed"),
        (b'{"inputs": "' + b"x" * 100_000, {}, 413, "larger than"),
    ],
)
def test_a_wrong_body_is_an_error_of_the_protocol(
    both: RunningServer, body: bytes, headers: dict[str, str], status: int, message: str
) -> None:
    headers = {"content-type": "application/json", **headers}
    answer = HTTP.post(f"{both.url}/v2/models/tiny/infer", content=body, headers=headers)
    assert answer.status_code == status
    if status != 413:  # refused before it is known to be this protocol's
        assert message in answer.json()["error"]


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        ({**TEXT, "data": None}, "has no data"),
        ({**TEXT, "data": None, "parameters": {"binary_data_size": 5}}, "does not fit"),
        ({**TEXT, "data": None, "parameters": {"binary_data_size": -1}}, "does not fit"),
        ({**TEXT, "parameters": {"binary_data_size": 0}}, "does not fit"),
        ({**TEXT, "shape": [0], "data": []}, "at least one text"),
        ({**TEXT, "datatype": "INT64", "data": [1]}, "it should be BYTES"),
    ],
)
def test_a_wrong_tensor_is_refused_by_name(both: RunningServer, tensor: dict[str, Any], message: str) -> None:
    answer = infer(both, inputs=[tensor])
    assert answer.status_code == 400
    assert "text_input" in answer.json()["error"]
    assert message in answer.json()["error"]


def test_an_input_given_twice_is_refused(both: RunningServer) -> None:
    assert "given twice" in infer(both, inputs=[TEXT, TEXT]).json()["error"]
    seed = {"name": "seed", "datatype": "INT64", "shape": [1], "data": [1]}
    answer = infer(both, inputs=[TEXT, seed], parameters={"seed": 2})
    assert "'seed' is given twice" in answer.json()["error"]


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 2**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
fields = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["text_input", "text", "seed"]) | json_values,
        "datatype": st.sampled_from(["BYTES", "INT64", "FP32", "BOOL"]) | json_values,
        "shape": st.lists(st.integers(0, 3), max_size=3) | json_values,
    },
    optional={"data": json_values, "parameters": json_values},
)
bodies = st.fixed_dictionaries(
    {"inputs": st.lists(fields, max_size=3) | json_values},
    optional={"id": json_values, "parameters": json_values, "outputs": json_values},
)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bodies, st.sampled_from(["tiny", "org/minilm"]))
def test_no_body_breaks_the_server(both: RunningServer, body: Any, model: str) -> None:
    answer = infer(both, model, **body)
    assert answer.status_code in (200, 400), answer.text
    assert answer.json().keys() & {"error", "outputs"}
