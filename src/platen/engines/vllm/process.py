"""A `vllm serve` process of our own: started on a loopback port, watched, and never left behind."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import socket
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import httpx

from platen.core.errors import ConfigError, PlatenError
from platen.engines.vllm.config import VllmConfig

_TAIL_LINES = 30
MODEL_NAME = "platen"
"""What the child calls the model; nobody but us sees it."""


class VllmError(PlatenError):
    """vLLM did not start."""


def serve_arguments(config: VllmConfig, max_concurrent: int) -> list[str]:
    """Of `vllm serve`, less the model and the address."""
    pairs = {
        "--served-model-name": MODEL_NAME,
        "--tensor-parallel-size": config.tensor_parallel_size,
        "--pipeline-parallel-size": config.pipeline_parallel_size,
        "--dtype": config.dtype,
        "--gpu-memory-utilization": config.gpu_memory_utilization,
        "--max-num-seqs": max_concurrent,
        "--generation-config": "vllm",  # sampling as the request has it, not as the folder suggests
    }
    if config.max_model_len is not None:
        pairs["--max-model-len"] = config.max_model_len
    flags = ["--enable-prompt-tokens-details"]
    return [text for pair in pairs.items() for text in map(str, pair)] + flags


def find_vllm() -> list[str]:
    """The command: beside this Python, or on the PATH. Raises ConfigError when there is none."""
    beside = Path(sys.executable).with_name("vllm")
    found = str(beside) if beside.is_file() else shutil.which("vllm")
    if found is None:
        raise ConfigError(
            "vLLM is not installed here",
            hint="pip install vllm, on a machine with a GPU; or choose another engine: --engine torch.",
        )
    return [found]


class VllmChild:
    """The process, from one start to its end; a new start is a new process. Belongs to one event loop."""

    def __init__(self, model: Path, config: VllmConfig, max_concurrent: int, command: Sequence[str]) -> None:
        self._model, self._config, self._max_concurrent = model, config, max_concurrent
        self._command = list(command)
        self.key = secrets.token_urlsafe(24)  # other users of this machine could call the port
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None

    async def start(self) -> str:
        """Start it and wait until it is ready: its URL. Raises VllmError with the end of its log."""
        port = _free_port()
        url = f"http://127.0.0.1:{port}"
        command = [*self._command, "serve", str(self._model), "--host", "127.0.0.1", "--port", str(port)]
        self._tail.clear()
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "platen.engines.vllm.supervisor", *command),
            *serve_arguments(self._config, self._max_concurrent),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            env=_environment() | {"VLLM_API_KEY": self.key},
        )
        self._reader = asyncio.create_task(self._read(self._process))
        try:
            async with asyncio.timeout(self._config.start_seconds):
                await self._healthy(url)
        except TimeoutError:
            await self.stop()
            raise VllmError(
                f"vLLM was not ready after {self._config.start_seconds:g} seconds{self._log()}",
                hint="Give it longer with serve.vllm.start_seconds.",
            ) from None
        except BaseException:
            await self.stop()
            raise
        return url

    async def ended(self) -> str:
        """Wait until the process is over: how it ended, with the end of its log."""
        assert self._process is not None
        code = await self._process.wait()
        if self._reader is not None:
            await self._reader
        return f"vLLM ended with exit code {code}{self._log()}"

    async def stop(self, grace: float = 15.0) -> None:
        """SIGTERM to the whole group, and SIGKILL to what is still there after `grace` seconds."""
        process = self._process
        if process is None:
            return
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace):
                await process.wait()
        except TimeoutError:
            pass
        self._signal(signal.SIGKILL)
        await process.wait()
        if self._reader is not None:
            await self._reader
        self._process = None

    async def _healthy(self, url: str) -> None:
        assert self._process is not None
        async with httpx.AsyncClient(trust_env=False) as client:
            while True:
                if self._process.returncode is not None:
                    raise VllmError(
                        await self.ended(), hint="Solve what its log says, or choose another engine."
                    )
                with suppress(httpx.HTTPError):
                    if (await client.get(f"{url}/health", timeout=5)).status_code == 200:
                        return
                await asyncio.sleep(0.05)

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            self._tail.append(line.decode(errors="replace").rstrip()[:400])

    def _log(self) -> str:
        lines = "\n".join(f"  | {line.replace(self.key, '…')}" for line in self._tail)
        return f"; its log ends\n{lines}" if lines else ""

    def _signal(self, number: int) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)


def _environment() -> dict[str, str]:
    """The child's: it reports nothing to anyone and fetches nothing."""
    quiet = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    return dict(os.environ) | quiet


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
