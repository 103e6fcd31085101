"""The messages of `open_inference.proto` as protobuf classes.

They are made from the compiled description in a pool of their own, because the names are other programs' too:
with Triton's or KServe's client in the same process the default pool would have them twice.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

SERVICE = "inference.GRPCInferenceService"


def _load() -> tuple[DescriptorPool, Any]:
    described = FileDescriptorSet.FromString(Path(__file__).with_name("open_inference.binpb").read_bytes())
    pool = DescriptorPool()
    for file in described.file:
        pool.Add(file)
    return pool, pool.FindServiceByName(SERVICE)


_POOL, _SERVICE = _load()
METHODS: dict[str, tuple[Any, Any]] = {
    method.name: (GetMessageClass(method.input_type), GetMessageClass(method.output_type))
    for method in _SERVICE.methods
}
"""Each method's class of request and of response."""
