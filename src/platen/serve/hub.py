"""The models of one server: which name leads to which loaded model, and who is still using it.

A request takes a lease on a model and gives it back when its answer is over. So a model can be replaced while
requests run: new ones go to the new model, and the old one is closed when the last lease on it is back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from platen.serve.errors import ApiError
from platen.serve.served import ModelInfo, ServedModel

log = logging.getLogger(__name__)


class Lease:
    """The right to use a model for one answer. Give it back exactly once; more often does no harm."""

    def __init__(self, slot: _Slot) -> None:
        self._slot: _Slot | None = slot
        self.model = slot.model
        slot.leases += 1

    def release(self) -> None:
        slot, self._slot = self._slot, None
        if slot is not None:
            slot.leases -= 1
            slot.close_if_over()


class ModelHub:
    """Models by name. All methods belong to the server's event loop."""

    def __init__(self, models: Iterable[ServedModel] = ()) -> None:
        self._slots: dict[str, _Slot] = {}
        self._closing: set[asyncio.Task[None]] = set()
        for model in models:
            self.put(model)

    def put(self, model: ServedModel) -> None:
        """Let `model` answer to its name; one that did before ends its requests and is closed."""
        before = self._slots.get(model.info.name)
        self._slots[model.info.name] = _Slot(model, self._closing)
        if before is not None:
            before.retire()

    def remove(self, name: str) -> None:
        """Take no more requests for `name`; what runs goes on. Raises ApiError for an unknown name."""
        slot = self._slot(name)
        del self._slots[name]
        slot.retire()

    def acquire(self, name: str, *, user: str | None = None) -> Lease:
        """A lease on the model that answers to `name`. Raises ApiError for an unknown name."""
        return Lease(self._slot(name))

    def info(self, name: str) -> ModelInfo:
        """What clients are told of the model of this name. Raises ApiError for an unknown one."""
        return self._slot(name).model.info

    def models(self) -> list[ServedModel]:
        """What takes requests, the first one first."""
        return [slot.model for slot in self._slots.values()]

    async def close(self) -> None:
        """Close all engines; what still runs ends with an error."""
        for slot in self._slots.values():
            await slot.model.engine.close()
        if self._closing:
            await asyncio.gather(*self._closing)

    def _slot(self, name: str) -> _Slot:
        if name not in self._slots:
            here = ", ".join(f"'{known}'" for known in self._slots) or "none"
            raise ApiError(
                404,
                f"The model '{name}' does not exist here; this server has {here}.",
                param="model",
                code="model_not_found",
            )
        return self._slots[name]


class _Slot:
    """A model and how many answers stand on it."""

    def __init__(self, model: ServedModel, closing: set[asyncio.Task[None]]) -> None:
        self.model, self.leases = model, 0
        self._retired, self._closing = False, closing

    def retire(self) -> None:
        self._retired = True
        self.close_if_over()

    def close_if_over(self) -> None:
        if self._retired and self.leases == 0:
            task = asyncio.get_running_loop().create_task(self.model.engine.close())
            self._closing.add(task)
            task.add_done_callback(self._closed)

    def _closed(self, task: asyncio.Task[None]) -> None:
        self._closing.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("closing %s failed", self.model.info.name, exc_info=task.exception())
