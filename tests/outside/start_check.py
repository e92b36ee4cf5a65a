"""How the server starts, refuses to start, and stops: exit codes, one clear sentence, nothing changed."""

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from checks import Checks
from paging import count, picture
from server import HOST, Server, clean_environment, free_port, profiles, release_binary
from stubs import Profile, pb

FAILURE, USAGE, BAD_CONFIGURATION = 1, 2, 78
SECONDS_TO_REFUSE = 120
NOBODY = "65534"


class Refusals:
    """Starts servers that must not start."""

    def __init__(self, checks: Checks) -> None:
        self._checks = checks

    def check(
        self,
        what: str,
        data_dir: Path,
        code: int,
        *named: str,
        arguments: list[str] | None = None,
        environment: dict[str, str] | None = None,
        prefix: list[str] | None = None,
        binary: Path | None = None,
    ) -> None:
        """Checks the exit code, and that what is printed for people names each of `named`. Unless it is a
        usage error, that is one sentence."""
        command = [*(prefix or []), str(binary or release_binary()), "serve", "--data-dir", str(data_dir)]
        if "--listen" not in (arguments or []):
            command += ["--listen", f"{HOST}:{free_port()}"]
        if "--admin-listen" not in (arguments or []):
            command += ["--admin-listen", f"{HOST}:{free_port()}"]
        try:
            done = subprocess.run(
                [*command, *(arguments or [])],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=SECONDS_TO_REFUSE,
                env=clean_environment(environment),
                cwd=tempfile.gettempdir(),
            )
        except subprocess.TimeoutExpired:
            self._checks.that(False, f"{what}: the server ends by itself")
            return
        sentence = for_people(done.stdout + done.stderr)
        shown = " | ".join(sentence)
        self._checks.equal(done.returncode, code, f"{what}: exit code (it said: {shown})")
        for name in named:
            self._checks.that(name in shown, f"{what}: names {name} (it said: {shown})")
        self._checks.that("panicked" not in shown, f"{what}: no panic (it said: {shown})")
        if code == FAILURE:
            self._checks.equal(len(sentence), 1, f"{what}: number of lines for people (it said: {shown})")


def for_people(output: str) -> list[str]:
    """The printed lines that are not log lines: those are JSON objects off a terminal."""
    return [line for line in output.splitlines() if line.strip() and not line.startswith("{")]


@contextmanager
def stopped_store(**profiles_to_create: str) -> Iterator[Path]:
    """A data directory with a few profiles, made by a server that has stopped."""
    with Server() as server:
        with server.channel() as channel:
            for profile_id, email in profiles_to_create.items():
                profile = Profile(id=profile_id, email=email)
                profiles(channel).CreateProfile(pb.CreateProfileRequest(profile=profile))
        server.stop()
        yield server.data_dir


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def check_directory_in_use(checks: Checks, refusals: Refusals) -> None:
    checks.section("data directory in use")
    with Server() as server, server.channel() as channel:
        client = profiles(channel)
        client.CreateProfile(pb.CreateProfileRequest(profile=Profile(id="a", email="a@example.com")))
        before = picture(client)
        refusals.check("directory in use", server.data_dir, FAILURE, str(server.data_dir), "in use")
        checks.that(picture(client) == before, "the server that has the directory is not disturbed")
        client.CreateProfile(pb.CreateProfileRequest(profile=Profile(id="b")))
        # The lock of a killed server is let go of.
        server.restart_after_kill()
        with server.channel() as anew:
            checks.equal(count(profiles(anew)), 2, "profiles after a kill and a restart")


def check_newer_format(checks: Checks, refusals: Refusals) -> None:
    checks.section("data directory of a newer format")
    with stopped_store(a="a@example.com") as data_dir:
        path = data_dir / "FORMAT"
        good = path.read_text()
        newer = json.loads(good)
        newer["format"] += 1000
        # Without one it is not checked.
        newer.pop("checksum")
        path.write_text(json.dumps(newer))
        before = files_of(data_dir)
        refusals.check("newer format", data_dir, FAILURE, str(data_dir), str(newer["format"]))
        checks.that(files_of(data_dir) == before, "newer format: the directory is unchanged")
        path.write_text("not JSON")
        refusals.check("damaged format file", data_dir, FAILURE, str(data_dir))
        path.write_text(good)
        _still_opens(checks, data_dir, 1, "newer format")


def check_other_canonicalization(checks: Checks, refusals: Refusals) -> None:
    checks.section("data directory with other canonicalisation")
    with stopped_store(a="Ada@example.com") as data_dir:
        before = files_of(data_dir)
        environment = {"PROFILESTORE__EMAIL__FOLD_LOCAL_PART": "false"}
        named = (str(data_dir), "fold_local_part", "reindex")
        refusals.check("other canonicalisation", data_dir, FAILURE, *named, environment=environment)
        checks.that(files_of(data_dir) == before, "other canonicalisation: the directory is unchanged")
        _still_opens(checks, data_dir, 1, "other canonicalisation")


def _still_opens(checks: Checks, data_dir: Path, expected: int, after: str) -> None:
    server = Server()
    server.data_dir = data_dir
    with server, server.channel() as channel:
        checks.equal(count(profiles(channel)), expected, f"profiles after a refused start ({after})")
        checks.equal(server.stop(), 0, f"exit code after a refused start ({after})")


def check_not_writable(checks: Checks, refusals: Refusals) -> None:
    checks.section("data directory that cannot be written")
    with tempfile.TemporaryDirectory(prefix="profilestore-check-") as folder:
        root = Path(folder)
        root.chmod(0o755)
        # Modes do not bind root, so a user without rights runs a copy that everybody may read.
        binary = root / "profilestore"
        shutil.copy(release_binary(), binary)
        binary.chmod(0o755)
        prefix: list[str] = []
        if os.geteuid() == 0:
            prefix = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        closed = root / "closed"
        closed.mkdir(0o555)
        for what, path in {"directory": closed, "parent": closed / "below"}.items():
            refusals.check(f"{what} not writable", path, FAILURE, str(path), prefix=prefix, binary=binary)
        checks.equal(list(closed.iterdir()), [], "nothing was made in the closed directory")
        file = root / "file"
        file.write_text("kept")
        refusals.check("a file where the directory should be", file, FAILURE, str(file))
        checks.equal(file.read_text(), "kept", "the file is unchanged")


def check_port_in_use(checks: Checks, refusals: Refusals) -> None:
    checks.section("port in use")
    with tempfile.TemporaryDirectory(prefix="profilestore-check-") as folder, socket.socket() as taken:
        taken.bind((HOST, free_port()))
        taken.listen()
        address = f"{HOST}:{taken.getsockname()[1]}"
        for option in ("--listen", "--admin-listen"):
            refusals.check(
                f"{option} in use", Path(folder) / "data", FAILURE, address, arguments=[option, address]
            )


def check_settings(checks: Checks, refusals: Refusals) -> None:
    checks.section("settings")
    bad_files = {
        "an unknown key": ("[email]\nfold_local_parts = true\n", ["fold_local_parts"]),
        "an unknown section": ("[nonsense]\nkey = 1\n", ["nonsense"]),
        "an unknown top-level key": ("nonsense = 1\n", ["nonsense"]),
        "a value of the wrong type": ('[email]\nunique = "perhaps"\n', ["unique"]),
        "broken TOML": ("[email\n", []),
    }
    with tempfile.TemporaryDirectory(prefix="profilestore-check-") as folder:
        data_dir, file = Path(folder) / "data", Path(folder) / "settings.toml"
        config = ["--config", str(file)]
        refusals.check("a missing file", data_dir, BAD_CONFIGURATION, str(file), arguments=config)
        for what, (text, named) in bad_files.items():
            file.write_text(text)
            refusals.check(f"a file with {what}", data_dir, BAD_CONFIGURATION, *named, arguments=config)
        for name, named in {
            "PROFILESTORE__EMAIL__FOLD_LOCAL_PARTS": "fold_local_parts",
            "PROFILESTORE__NONSENSE__KEY": "nonsense",
        }.items():
            refusals.check(f"{name}", data_dir, BAD_CONFIGURATION, named, environment={name: "true"})
        refusals.check("unknown option", data_dir, USAGE, "--nonsense", arguments=["--nonsense"])
        refusals.check(
            "an address that is none",
            data_dir,
            BAD_CONFIGURATION,
            "listen",
            arguments=["--listen", "nowhere"],
        )
        checks.that(not data_dir.exists(), "a bad configuration makes no data directory")


def check_start_and_stop(checks: Checks) -> None:
    checks.section("start, admin listener, signals, sample")
    with Server("--sample", "300") as server:
        for line in (server.address, server.admin_address):
            checks.that(line in server.log(), "the ready line has the addresses")
        for path, status in {"/livez": 200, "/readyz": 200, "/nonsense": 404}.items():
            checks.equal(_http_status(server.admin_address, path), status, f"status of {path}")
        with server.channel() as channel:
            checks.equal(count(profiles(channel)), 300, "sample profiles")
        checks.equal(server.stop(signal.SIGTERM), 0, "exit code after SIGTERM")
        server.start()
        with server.channel() as channel:
            checks.equal(count(profiles(channel)), 300, "the sample is loaded into an empty store only")
        checks.equal(server.stop(signal.SIGINT), 0, "exit code after SIGINT")


def _http_status(address: str, path: str) -> int:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        return opener.open(f"http://{address}{path}", timeout=10).status
    except urllib.error.HTTPError as error:
        return error.code


def main() -> None:
    """All start-up checks."""
    checks = Checks("start_check")
    refusals = Refusals(checks)
    check_start_and_stop(checks)
    check_directory_in_use(checks, refusals)
    check_newer_format(checks, refusals)
    check_other_canonicalization(checks, refusals)
    check_not_writable(checks, refusals)
    check_port_in_use(checks, refusals)
    check_settings(checks, refusals)
    checks.finish()


if __name__ == "__main__":
    main()
