"""The example's group of workers: each message is done once, and what a dead worker had goes to another. And the README's
lines about publishing, pasted."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from checks import PATIENCE_SECONDS, Checks, whole_lines
from nats_broker import Broker
from nats_delays import eventually, names, write
from server import HOST, Server, clean_environment, free_port, profiles, release_binary
from stubs import REPOSITORY, Profile, pb

EXAMPLE = REPOSITORY / "examples" / "nats_workers.py"
README_BLOCK = re.compile(r"^```sh\n(nats-server .*?)^```$", re.DOTALL | re.MULTILINE)
MESSAGES = 60
MOVES = 5
# A worker that is kept from the processor for so long has its messages done twice.
ACK_WAIT_SECONDS = 6
# How many more messages may be written until each worker has had one, a few at a time.
MOST_MORE = 600
FEW = 10


class Worker:
    """A worker of the example as a process, and what it has printed."""

    def __init__(self, broker: Broker, folder: str, name: str, *arguments: str, group: str = "g") -> None:
        self._output = Path(folder) / name
        command = [sys.executable, str(EXAMPLE), "--server", broker.url, "--stream", "WORK", "--group", group]
        command += ["--ack-wait", str(ACK_WAIT_SECONDS), *arguments]
        with self._output.open("wb") as out:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def said(self, word: str) -> list[str]:
        """The ids behind a word, in order."""
        lines = whole_lines(self._output.read_text())
        return [line.split()[1] for line in lines if line.startswith(f"{word} ")]

    def results(self) -> list[str]:
        """What the work on each message came to."""
        lines = whole_lines(self._output.read_text())
        return [line.split()[2] for line in lines if line.startswith("done ")]

    def stop(self) -> tuple[int, str]:
        """Asks it to end; returns its exit code and, when it is not 0, what it said last."""
        self.process.terminate()
        code = self.process.wait(30)
        return code, self._output.read_text()[-500:] if code else ""


def check_group(checks: Checks) -> None:
    """Three workers share the messages; one is killed with messages in its hands."""
    with Broker() as broker, Server("--publish", broker.url, "--publish-stream", "WORK") as server:
        write(server, names("work", MESSAGES))
        checks.that(eventually(lambda: broker.count("WORK") == MESSAGES), "workers: the messages are published")
        with tempfile.TemporaryDirectory() as folder:
            # It takes several and is at work on the first when it dies.
            victim = Worker(broker, folder, "victim", "--batch", "5", "--pause", "600")
            checks.that(eventually(lambda: bool(victim.said("took"))), "workers: the first takes messages")
            others = [Worker(broker, folder, f"other-{number}", "--pause", "0.01") for number in range(2)]
            victim.process.kill()
            victim.process.wait()
            messages = MESSAGES

            def have_work() -> bool:
                """The first to be there may have done everything when the other comes: then there is more."""
                nonlocal messages
                both = all(worker.said("took") for worker in others)
                if not both and messages < MESSAGES + MOST_MORE:
                    write(server, [f"work-{number}" for number in range(messages, messages + FEW)])
                    messages += FEW
                return both

            checks.that(eventually(have_work), "workers: both have work")
            done = lambda: [each for worker in others for each in worker.said("done")]  # noqa: E731
            checks.that(eventually(lambda: len(set(done())) == messages), "workers: everything is done")
            lost = victim.said("took")[0]
            checks.that(lost in done(), "workers: what the dead worker had goes to another")
            checks.equal(len(done()), messages, "workers: each message is done once")
            # Nothing is delivered again after the time for it.
            time.sleep(ACK_WAIT_SECONDS + 1)
            checks.equal(len(done()), messages, "workers: what was acknowledged does not come again")
            checks.equal([worker.stop() for worker in others], [(0, "")] * 2, "workers: exit codes")
            check_moves(checks, broker, server, folder, messages)
    checks.section("a group of workers")


def check_moves(checks: Checks, broker: Broker, server: Server, folder: str, messages: int) -> None:
    """A worker that leaves out what is not newer leaves out nothing of a move, which is two messages of one change."""
    with server.channel() as channel:
        for number in range(MOVES):
            moved = Profile(id=f"work-{number}", email=f"work-{number}@moved.example")
            profiles(channel).UpdateProfile(pb.UpdateProfileRequest(profile=moved), timeout=30.0)
    wanted = messages + 2 * MOVES
    checks.that(eventually(lambda: broker.count("WORK") == wanted), "moves: two messages of each are published")
    # Alone it gets every profile's messages in their order, so that nothing can be old.
    alone = Worker(broker, folder, "alone", group="alone")
    checks.that(eventually(lambda: len(alone.results()) == wanted), "moves: everything is done")
    checks.equal(alone.results().count("new"), wanted, "moves: every message is newer than the one before")
    checks.equal(alone.stop(), (0, ""), "moves: exit code")


def check_readme(checks: Checks) -> None:
    """The README's lines about publishing work as they are pasted, at other ports and in a folder of their own."""
    found = README_BLOCK.search((REPOSITORY / "README.md").read_text())
    checks.that(found is not None, "the README shows how to publish")
    if found is None:
        return
    ports = {port: str(free_port()) for port in ("4222", "50051", "9464")}
    text = found.group(1)
    for documented, port in ports.items():
        text = text.replace(f"127.0.0.1:{documented}", f"{HOST}:{port}").replace(f"-p {documented}", f"-p {port}")
    path = f"{release_binary().parent}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    server = {
        "PATH": path,
        "NATS_URL": f"nats://{HOST}:{ports['4222']}",
        "PROFILESTORE_ADDR": f"{HOST}:{ports['50051']}",
        "PROFILESTORE__SERVER__LISTEN": f"{HOST}:{ports['50051']}",
        "PROFILESTORE__SERVER__ADMIN_LISTEN": f"{HOST}:{ports['9464']}",
    }
    environment = clean_environment(server)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "examples").symlink_to(REPOSITORY / "examples")
        background: list[subprocess.Popen[bytes]] = []
        try:
            for line in text.splitlines():
                in_background = line.split("#")[0].rstrip().endswith("&")
                command = ["bash", "-c", f"exec {line.split('#')[0].rstrip().removesuffix('&')}"]
                if in_background:
                    log = (Path(folder) / f"log-{len(background)}").open("wb")
                    process = subprocess.Popen(
                        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                    )
                    background.append(process)
                    continue
                done = _run_until_it_works(command, folder, environment)
                checks.equal(done.returncode, 0, f"exit code of {line!r}, which says {done.stderr[-300:]!r}")
                if "nats_workers" in line:
                    checks.that("took" in done.stdout and "done" in done.stdout, "the README's worker has work")
        finally:
            for process in reversed(background):
                process.terminate()
                process.wait(40)
    checks.section("the README's lines")


def _run_until_it_works(
    command: list[str], folder: str, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """A person would wait until what runs in the background is ready."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
        if done.returncode == 0 or time.monotonic() > deadline:
            return done
        time.sleep(0.2)


def check_stop_without_broker(checks: Checks) -> None:
    """A worker that finds no broker says so in one line for each attempt, and ends when it is told to."""
    for number in (signal.SIGINT, signal.SIGTERM):
        worker = subprocess.Popen(
            [sys.executable, str(EXAMPLE), "--server", f"nats://{HOST}:{free_port()}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert worker.stderr is not None
            said = [worker.stderr.readline() for _ in range(2)]
            worker.send_signal(number)
            said += worker.communicate(timeout=30)[1].splitlines()
            checks.that(all(line.startswith("NATS: ") for line in said), f"a worker without a broker says {said!r}")
            checks.equal(worker.returncode, 0, f"exit code after {number.name} without a broker")
        finally:
            worker.kill()
            worker.wait()


def check_workers(checks: Checks) -> None:
    """The group and the README."""
    check_stop_without_broker(checks)
    check_group(checks)
    check_readme(checks)
