"""Runs the release binary for a check: free ports, its own data directory, kill -9, restart, stop."""

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections import deque
from pathlib import Path
from types import TracebackType

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from stubs import REPOSITORY, service

HOST = "127.0.0.1"
# Only what hangs takes so long.
START_SECONDS = 180.0
STOP_SECONDS = 90.0
# Below Linux's ephemeral range: a port from it could be taken, between a kill and the restart, by any
# outgoing connection, even by our own client that tries to connect to it.
PORTS = range(20_000, 32_000)
# What was given last: one that nobody has bound yet looks free, and so does one whose server was killed.
_given_ports: deque[int] = deque(maxlen=2000)
# Whatever a check seeds, two of them do not take the same ports.
_any_port = random.SystemRandom()
CHANNEL_OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    # How long one attempt to connect may take, whatever the name says: a loaded machine may need a while.
    ("grpc.min_reconnect_backoff_ms", 10_000),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
]


class ServerFailed(Exception):
    """The server did not do what a server does. The message ends with the end of its log."""


def release_binary() -> Path:
    """The binary under test: PROFILESTORE_BIN, or what `cargo build --release` makes."""
    target = os.environ.get("CARGO_TARGET_DIR", str(REPOSITORY / "target"))
    path = Path(os.environ.get("PROFILESTORE_BIN", f"{target}/release/profilestore")).resolve()
    if not path.is_file():
        raise SystemExit(f"there is no {path}; run `cargo build --release` first")
    return path


def free_port() -> int:
    """A port on which nothing listens now, and which was given to nobody here."""
    while True:
        port = _any_port.choice(PORTS)
        if port in _given_ports:
            continue
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
        _given_ports.append(port)
        return port


def clean_environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    """This process's environment without settings for the server, plus `extra`."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PROFILESTORE_")}
    return kept | (extra or {})


class Server:
    """One server, which may be killed and started again on the same data and the same addresses."""

    def __init__(
        self,
        *arguments: str,
        config: str | None = None,
        data_dir: Path | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        self._root = Path(tempfile.mkdtemp(prefix="profilestore-check-"))
        self.data_dir = data_dir or self._root / "data"
        self._environment = clean_environment(environment)
        self.log_path = self._root / "server.log"
        self.address = f"{HOST}:{free_port()}"
        self.admin_address = f"{HOST}:{free_port()}"
        self.kills = 0
        self._arguments = list(arguments)
        if config is not None:
            config_path = self._root / "profilestore.toml"
            config_path.write_text(config)
            self._arguments += ["--config", str(config_path)]
        self._process: subprocess.Popen[bytes] | None = None
        # Where its standard error goes at the next start, instead of the log.
        self.stderr: int | None = None

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process, self._process = self._process, None
        died = process is not None and process.poll() is not None
        if process is not None and not died:
            process.kill()
            process.wait()
        if error is not None or died:
            print(f"the server's data and log are kept in {self._root}", flush=True)
        else:
            shutil.rmtree(self._root, ignore_errors=True)
        if died and error is None:
            raise ServerFailed(f"the server ended by itself with {process.returncode}")

    def spawn(self) -> None:
        """Starts the process without waiting until it serves."""
        assert self._process is None, "the server runs already"
        command = [str(release_binary()), "serve", "--data-dir", str(self.data_dir)]
        command += ["--listen", self.address, "--admin-listen", self.admin_address, *self._arguments]
        with self.log_path.open("ab") as log:
            stderr = log if self.stderr is None else self.stderr
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=stderr, env=self._environment
            )

    def start(self) -> None:
        """Starts the server and waits until its health service says SERVING."""
        self.spawn()
        deadline = time.monotonic() + START_SECONDS
        self._wait_for_listener(deadline)
        with self.channel() as channel:
            health = health_pb2_grpc.HealthStub(channel)
            while not _is_serving(health):
                self._check_still_starting(deadline)
                time.sleep(0.02)

    def kill(self) -> None:
        """kill -9, and waits until the process is gone."""
        process = self._running()
        process.kill()
        process.wait()
        self._process = None
        self.kills += 1

    def kill_unless_ended(self) -> int:
        """kill -9 of a server that may be about to end by itself. Its exit code, which is not -9 when it was quicker."""
        assert self._process is not None, "the server was not started"
        process, self._process = self._process, None
        process.kill()
        self.kills += 1
        return process.wait()

    def kill_while_stopping(self, seconds: float) -> bool:
        """SIGTERM, and so much later kill -9. Whether that met it before it had ended by itself."""
        process = self._running()
        process.send_signal(signal.SIGTERM)
        time.sleep(seconds)
        process.kill()
        self._process = None
        self.kills += 1
        return process.wait() == -signal.SIGKILL

    def restart_after_kill(self) -> None:
        """kill -9 and a start on the same data."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """Stops the process where it is; nothing of it runs until `resume`."""
        self._running().send_signal(signal.SIGSTOP)
        deadline = time.monotonic() + STOP_SECONDS
        while "T (stopped)" not in self._state():
            if time.monotonic() > deadline:
                raise self._failure("did not stop where it was")
            time.sleep(0.001)

    def resume(self) -> None:
        """Lets a paused process go on."""
        self._running().send_signal(signal.SIGCONT)

    @property
    def pid(self) -> int:
        """The process."""
        return self._running().pid

    def resident_bytes(self) -> int:
        """The memory that the process holds."""
        line = next(line for line in self._state().splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024

    def wait_until_refusing(self) -> None:
        """Waits until no new connections are taken."""
        host, port = self.address.split(":")
        deadline = time.monotonic() + STOP_SECONDS
        while time.monotonic() < deadline:
            try:
                socket.create_connection((host, int(port)), 1.0).close()
            except OSError:
                return
            time.sleep(0.005)
        raise self._failure("went on taking connections")

    def _state(self) -> str:
        return Path(f"/proc/{self._running().pid}/status").read_text()

    def peak_mib(self) -> float:
        """The largest resident size of the process so far, in MiB."""
        line = next(line for line in self._state().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024

    def stop(self, with_signal: int = signal.SIGTERM) -> int:
        """Asks the server to end, waits, and returns its exit code."""
        process = self._running()
        process.send_signal(with_signal)
        try:
            code = process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise self._failure(f"did not end within {STOP_SECONDS:.0f} s of signal {with_signal}") from None
        self._process = None
        return code

    def wait(self, seconds: float) -> int:
        """Waits until the server has ended by itself, and returns its exit code."""
        assert self._process is not None, "the server was not started"
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise self._failure(f"did not end by itself within {seconds:.0f} s") from None
        self._process = None
        return code

    def channel(self, compression: grpc.Compression = grpc.Compression.NoCompression) -> grpc.Channel:
        """A new connection to the server."""
        return grpc.insecure_channel(self.address, CHANNEL_OPTIONS, compression)

    def log(self) -> str:
        """All that the server has printed, over all its starts."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ServerFailed("the server was not started")
        if self._process.poll() is not None:
            raise self._failure(f"ended by itself with {self._process.returncode}")
        return self._process

    def _wait_for_listener(self, deadline: float) -> None:
        host, port = self.address.split(":")
        while True:
            try:
                socket.create_connection((host, int(port)), 1.0).close()
                return
            except OSError:
                self._check_still_starting(deadline)
                time.sleep(0.005)

    def _check_still_starting(self, deadline: float) -> None:
        self._running()
        if time.monotonic() > deadline:
            raise self._failure(f"did not serve within {START_SECONDS:.0f} s")

    def _failure(self, what: str) -> ServerFailed:
        end_of_log = "\n".join(self.log().splitlines()[-20:])
        return ServerFailed(f"the server {what}; the end of its log:\n{end_of_log}")


def _is_serving(health: health_pb2_grpc.HealthStub) -> bool:
    try:
        answer = health.Check(health_pb2.HealthCheckRequest(), timeout=5.0)
    except grpc.RpcError:
        return False
    return answer.status == health_pb2.HealthCheckResponse.SERVING


def profiles(channel: grpc.Channel) -> service.ProfileServiceStub:
    """The profile service's client."""
    return service.ProfileServiceStub(channel)
