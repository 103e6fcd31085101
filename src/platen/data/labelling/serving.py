"""Runs the labelling page on this machine until it is interrupted."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable

from platen.core.errors import MissingExtraError, PlatenError
from platen.data.labelling.items import TaskSet
from platen.data.labelling.store import LabelStore

HOST = "127.0.0.1"


def serve_labelling(store: LabelStore, tasks: TaskSet, port: int, on_ready: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; `on_ready` is told the URL. Port 0 takes a free one.

    Raises PlatenError when the port is taken, MissingExtraError without the server's libraries.
    """
    try:
        import uvicorn

        from platen.data.labelling.app import create_label_app
    except ImportError:
        raise MissingExtraError("serve", "the labelling page") from None
    app = create_label_app(store, tasks)
    try:
        listener = socket.create_server((HOST, port))
    except OSError as error:
        raise PlatenError(
            f"can't listen on {HOST}:{port}: {error.strerror}",
            hint="Take another port, or --port 0 for a free one.",
        ) from None
    config = uvicorn.Config(app, ws="none", lifespan="off", log_config=None, access_log=False)
    with listener, contextlib.suppress(KeyboardInterrupt):
        on_ready(f"http://{HOST}:{listener.getsockname()[1]}")
        uvicorn.Server(config).run(sockets=[listener])
