"""A nats-server for a check: free port, its own store, kill -9, restart; and what is in its streams."""

import asyncio
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import nats
from nats.js import JetStreamContext
from nats.js.api import StreamConfig

from server import HOST, free_port

START_SECONDS = 30.0
T = TypeVar("T")


@dataclass
class Message:
    """A message of a stream."""

    subject: str
    headers: dict[str, str]
    event: dict[str, Any]

    @property
    def id(self) -> str:
        """The event's id."""
        return self.event["id"]

    @property
    def kind(self) -> str:
        """put, delete or left."""
        return self.event["type"].rsplit(".", 1)[1]


class Broker:
    """One nats-server, which may be killed and started again on the same data and the same port."""

    def __init__(self, jetstream: bool = True, config: str = "", tls_ca: str = "") -> None:
        self._root = Path(tempfile.mkdtemp(prefix="profilestore-nats-"))
        self.port = free_port()
        self.url = f"nats://{HOST}:{self.port}"
        self._command = ["nats-server", "-a", HOST, "-p", str(self.port), "-l", str(self._root / "log")]
        if jetstream:
            self._command += ["-js", "-sd", str(self._root / "store")]
        if config:
            path = self._root / "config"
            path.write_text(config)
            self._command += ["-c", str(path)]
        self._process: subprocess.Popen[bytes] | None = None
        self._tls = ssl.create_default_context(cafile=tls_ca) if tls_ca else None
        self.kills = 0

    def __enter__(self) -> "Broker":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if error is None:
            shutil.rmtree(self._root, ignore_errors=True)
        else:
            print(f"the broker's data and log are kept in {self._root}", flush=True)

    def start(self) -> None:
        """Starts the broker and waits until it takes connections."""
        assert self._process is None, "the broker runs already"
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection((HOST, self.port), 1.0).close()
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"nats-server does not start; its log is in {self._root}") from None
                time.sleep(0.01)

    def kill(self) -> None:
        """kill -9, and waits until the process is gone."""
        assert self._process is not None, "the broker was not started"
        self._process.kill()
        self._process.wait()
        self._process = None
        self.kills += 1

    def pause(self) -> None:
        """Stops the process where it is: connections stay and nobody answers."""
        assert self._process is not None, "the broker was not started"
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Lets a paused broker go on."""
        assert self._process is not None, "the broker was not started"
        os.kill(self._process.pid, signal.SIGCONT)

    def call(self, what: Callable[[JetStreamContext], Awaitable[T]]) -> T:
        """Does something with the broker's JetStream over a connection of its own."""

        async def connected() -> T:
            client = await nats.connect(self.url, connect_timeout=10, tls=self._tls)
            try:
                return await what(client.jetstream(timeout=10.0))
            finally:
                await client.close()

        return asyncio.run(connected())

    def add_stream(self, **config: Any) -> None:
        """Makes a stream."""
        self.call(lambda stream: stream.add_stream(StreamConfig(**config)))

    def update_stream(self, **config: Any) -> None:
        """Changes a stream."""
        self.call(lambda stream: stream.update_stream(StreamConfig(**config)))

    def count(self, stream: str) -> int:
        """The number of messages of a stream; 0 without the stream."""

        async def ask(context: JetStreamContext) -> int:
            try:
                return (await context.stream_info(stream)).state.messages
            except nats.js.errors.NotFoundError:
                return 0

        return self.call(ask)

    def messages(self, stream: str) -> list[Message]:
        """All messages of a stream, in its order."""

        async def read(context: JetStreamContext) -> list[Message]:
            wanted = (await context.stream_info(stream)).state.messages
            found: list[Message] = []
            consumer = await context.pull_subscribe("", stream=stream)
            while len(found) < wanted:
                for message in await consumer.fetch(min(500, wanted - len(found)), timeout=10.0):
                    await message.ack()
                    found.append(Message(message.subject, dict(message.headers or {}), json.loads(message.data)))
            return found

        return self.call(read)
