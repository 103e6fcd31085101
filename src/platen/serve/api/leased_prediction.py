"""How every route that answers in one piece holds its model: a lease for the whole of the work.

When an experiment fails (a canary, a part of a split), the stable model answers instead.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, NamedTuple, TypeVar

from platen.serve.hub.model_hub import Lease
from platen.serve.hub.routing import Outcome
from platen.serve.hub.served_model import AnyModel
from platen.web.errors import ApiError

T = TypeVar("T")


class Prediction(NamedTuple, Generic[T]):
    """What a model has made, and the headers that tell which one it was."""

    value: T
    headers: dict[str, str]


async def predict(lease: Lease, work: Callable[[AnyModel], Awaitable[T]]) -> Prediction[T]:
    """Do `work` with the model of the lease, which is given back. Cancelling it stops the work.

    Raises the ApiError of the work.
    """
    while True:
        try:
            value = await work(lease.model)
        except ApiError as error:
            broken = error.status >= 500
            stable = lease.elsewhere() if broken else None
            lease.release(Outcome(failed=True) if broken else None)
            if stable is None:
                raise
            lease = stable
        except BaseException:
            lease.release()
            raise
        else:
            lease.release(Outcome(failed=False))
            return Prediction(value, lease.headers)
