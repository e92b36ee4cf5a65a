"""Pastes what README.md offers for pasting: the first command, every grpcurl and curl line, the Python client, the command
line, the server with a collector, and the example that watches."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from checks import Checks
from server import HOST, Server, clean_environment, release_binary
from stubs import FOLDER, REPOSITORY

README = REPOSITORY / "README.md"
DOCUMENTED_ADDRESS = "127.0.0.1:50051"
DOCUMENTED_ADMIN_ADDRESS = "127.0.0.1:9464"
SAMPLE = 2000
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(language: str) -> list[str]:
    """The README's code blocks of a language."""
    return [text for found, text in BLOCK.findall(README.read_text()) if found == language]


def commands_of(program: str) -> list[str]:
    """The commands that begin with a program, each with the lines that it goes on over."""
    # A command goes on over the lines that are indented.
    commands = re.findall(r"^\S.*(?:\n[ \t]+.*)*", "".join(blocks("sh")), re.MULTILINE)
    return [command for command in commands if command.startswith(f"{program} ")]


def run(server: Server, command: list[str], text: str) -> subprocess.CompletedProcess[str]:
    """Runs a block against the server's address in place of the documented one."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return subprocess.run(
        [*command, text.replace(DOCUMENTED_ADDRESS, server.address).replace(DOCUMENTED_ADMIN_ADDRESS, server.admin_address)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PATH": path, "PYTHONPATH": FOLDER},
    )


def check_first_command(checks: Checks) -> None:
    """What a newcomer pastes first builds, loads, serves and is ended by Ctrl-C; only its folder and ports are ours."""
    command = next((text.strip() for text in blocks("sh") if text.startswith("cargo run ")), "")
    profiles = re.search(r"--sample (\d+)", command)
    if not checks.that(profiles is not None, "the README's first command serves a sample"):
        return
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "PROFILESTORE__SERVER__LISTEN": "127.0.0.1:0",
            "PROFILESTORE__SERVER__ADMIN_LISTEN": "127.0.0.1:0",
            "PROFILESTORE__STORE__DATA_DIR": f"{folder}/data",
        }
        # cargo becomes the server, so the signal is the server's.
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            cwd=REPOSITORY,
            env=clean_environment(settings),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            ready = process.stdout.readline()
            checks.that(
                ready.startswith("profilestore is ready") and f"profiles={profiles[1]}" in ready,
                f"{command!r} says {ready!r}",
            )
            process.send_signal(signal.SIGINT)
            checks.equal(process.wait(timeout=300), 0, "exit code after Ctrl-C")
        finally:
            process.kill()
            process.wait()


def check_grpcurl(checks: Checks, server: Server) -> None:
    """Every command succeeds, but for the one that shows a validation error. A watch ends only by its time or by what reads
    it, so it succeeds when it has shown changes."""
    commands = commands_of("grpcurl")
    checks.that(
        len(commands) >= 6, "the README has grpcurl lines to list, describe, create, get, query and err"
    )
    mistakes = watches = 0
    for command in commands:
        # Two seconds are enough for somebody who looks, but not on every machine; `head` ends it all the same.
        command = command.replace("-max-time 2 ", "-max-time 20 ")
        done = run(server, ["bash", "-o", "pipefail", "-c"], command)
        output = done.stdout + done.stderr
        if done.returncode != 0 and "InvalidArgument" in output and "BadRequest" in output:
            mistakes += 1
            continue
        if "/WatchProfiles" in command:
            watches += 1
            shown = '"PROFILE_EVENT_TYPE_PUT"' in done.stdout
            checks.that(shown, f"{command!r} shows changes and says {output[:300]!r}")
            continue
        checks.equal(done.returncode, 0, f"exit code of {command!r}, which says {output[:300]!r}")
    checks.equal((mistakes, watches), (1, 1), "commands that show a validation error, and those that watch")


def check_curl(checks: Checks, server: Server) -> None:
    """The metrics and the log filter by curl."""
    commands = commands_of("curl")
    checks.equal(len(commands), 2, "curl lines")
    for command in commands:
        # `head` may end before curl does, so what was shown decides.
        done = run(server, ["bash", "-c"], command.replace("curl ", "curl --fail ", 1))
        checks.equal(done.returncode, 0, f"exit code of {command!r}")
        checks.that("profilestore" in done.stdout, f"{command!r} shows something: {done.stdout[:300]!r}")


def check_collector(checks: Checks) -> None:
    """The server starts as the line with a collector says, whether or not there is one."""
    lines = [line for text in blocks("sh") for line in text.splitlines() if line.startswith("OTEL_")]
    checks.equal(len(lines), 1, "lines with a collector")
    path = f"{release_binary().parent}{os.pathsep}{os.environ.get('PATH', '')}"
    anywhere = {"PROFILESTORE__SERVER__LISTEN": f"{HOST}:0", "PROFILESTORE__SERVER__ADMIN_LISTEN": f"{HOST}:0"}
    for line in lines:
        assignments, arguments = line.split(" profilestore ", 1)
        with tempfile.TemporaryDirectory() as folder:
            process = subprocess.Popen(
                ["bash", "-c", f"{assignments} exec profilestore {arguments}"],
                cwd=folder,
                env=clean_environment(anywhere | {"PATH": path}),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            assert process.stdout is not None
            ready = process.stdout.readline()
            process.terminate()
            process.communicate(timeout=300)
            checks.that("ready" in ready, f"{line!r} says {ready!r}")
            checks.equal(process.returncode, 0, f"exit code of {line!r}")


def check_command_line(checks: Checks, server: Server) -> None:
    """Every line with our own command succeeds, run in order in a folder of its own."""
    block = next((text for text in blocks("sh") if text.startswith("profilestore ")), "")
    lines = [line for line in block.splitlines() if line]
    checks.that(len(lines) >= 17, "the README shows every command")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "examples").symlink_to(REPOSITORY / "examples")
        path = f"{release_binary().parent}{os.pathsep}{os.environ.get('PATH', '')}"
        environment = clean_environment({"PATH": path, "PROFILESTORE_ADDR": server.address})
        for line in lines:
            done = subprocess.run(
                ["bash", "-c", line], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
            )
            checks.equal(done.returncode, 0, f"exit code of {line!r}, which says {done.stderr[-300:]!r}")


def check_watch_example(checks: Checks, server: Server) -> None:
    """The example follows, keeps its place and goes on from there."""
    with tempfile.TemporaryDirectory() as folder:
        token = Path(folder) / "token"
        command = [sys.executable, str(REPOSITORY / "examples" / "watch.py"), "--address", server.address]
        command += ["--oldest", "--limit", "10", "--token-file", str(token)]
        # As pasted: in the folder where protoc wrote the stubs, and without a path that is set for it.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        runs = [
            subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=300, env=environment)
            for _ in range(2)
        ]
    for done in runs:
        checks.equal(done.returncode, 0, f"exit code of examples/watch.py, which says {done.stderr[-300:]!r}")
    first, second = (set(done.stdout.splitlines()) for done in runs)
    checks.that(len(first) >= 10 and len(second) >= 10, "the example prints the changes")
    checks.that(not first & second, "the example goes on where it stopped")


def check_python(checks: Checks, server: Server) -> None:
    """Every Python block runs and prints something."""
    programs = blocks("python")
    checks.that(bool(programs), "the README has a Python client")
    for program in programs:
        done = run(server, [sys.executable, "-c"], program)
        checks.equal(done.returncode, 0, f"exit code of the Python client, which says {done.stderr[-300:]!r}")
        checks.that(bool(done.stdout.strip()), "the Python client prints something")


def main() -> None:
    """All of the README's blocks against one server with the sample that it asks for, made smaller."""
    checks = Checks("readme_check")
    check_first_command(checks)
    with Server("--sample", str(SAMPLE)) as server:
        check_grpcurl(checks, server)
        check_curl(checks, server)
        check_python(checks, server)
        check_watch_example(checks, server)
        check_command_line(checks, server)
    check_collector(checks)
    checks.finish()


if __name__ == "__main__":
    main()
