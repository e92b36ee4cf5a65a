"""An import by the command line that the server is killed under, and its oracle: the file."""

import json
import random
import subprocess
import time
from pathlib import Path

import grpc

from checks import Checks
from paging import count, profiles_of_domain
from server import Server, clean_environment, release_binary
from stubs import pb, service

LINES = 4000
BEGIN_SECONDS = 10.0
END_SECONDS = 180.0
ATTEMPTS = 5
DELETES = 100
# The exit code of an import that has ended, and which could not use all of its input.
SOME_REJECTED = 3


class Import:
    """One import of a file of its own, into a domain of its own."""

    def __init__(self, folder: Path, number: int, seed: int) -> None:
        self._random = random.Random(f"{seed}-{number}")
        self.domain = f"import-{number}.example"
        self._file = folder / f"import-{number}.jsonl"
        self._output = folder / f"import-{number}.log"
        self._lines: list[dict[str, str]] = []
        for line in range(LINES):
            profile = {"email": f"u{line}@{self.domain}", "displayName": "x" * self._random.randrange(250)}
            # A line without an id makes a new profile; sent twice it must make one all the same.
            self._lines.append(profile if line % 3 == 0 else {"id": f"import-{number}-{line}"} | profile)
        self._file.write_text("".join(json.dumps(line) + "\n" for line in self._lines))
        self._process: subprocess.Popen[bytes] | None = None

    def begin(self, server: Server) -> None:
        """Begins it, or goes on with it, and waits until it has sent something or has ended."""
        # A profile that is there already is a failure: nothing may come twice.
        command = [str(release_binary()), "import", str(self._file), "--on-conflict", "fail"]
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=clean_environment({"PROFILESTORE_ADDR": server.address}),
            )
        progress, deadline = Path(f"{self._file}.progress"), time.monotonic() + BEGIN_SECONDS
        while not progress.exists() and self._process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)

    def is_under_way(self) -> bool:
        """Whether the command has not ended."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Ends the command, if it has not ended."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def finish(self, server: Server, checks: Checks, when: str) -> int:
        """With a server that stays: repeats the command until it says that all is imported. Returns how often."""
        assert self._process is not None
        for attempt in range(ATTEMPTS):
            try:
                code = self._process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                self.stop()
                checks.that(False, f"{when}: an import does not end")
                return attempt
            if code in (0, SOME_REJECTED):
                return attempt
            self.begin(server)
        self.stop()
        checks.that(False, f"{when}: an import fails with {code} again and again: {self._output.read_text()[-600:]}")
        return ATTEMPTS

    def check_and_delete(self, client: service.ProfileServiceStub, checks: Checks, when: str) -> None:
        """Every line is there once; then they go, so that the store stays small."""
        found = profiles_of_domain(client, self.domain, False, 1000)
        checks.equal(count(client, self.domain), LINES, f"{when}: imported profiles by their counter")
        lines = sorted((line["email"], line["displayName"]) for line in self._lines)
        checks.that(lines == sorted((each.email, each.display_name) for each in found), f"{when}: each line once")
        given = {line["id"] for line in self._lines if "id" in line}
        checks.that(given <= {each.id for each in found}, f"{when}: the ids of the file")
        checks.that(not Path(f"{self._file}.rejects").exists(), f"{when}: nothing was rejected")
        ids = [each.id for each in found]
        for begin in range(0, len(ids), DELETES):
            chosen = ids[begin : begin + DELETES]
            writes = [pb.ProfileWrite(delete=pb.DeleteProfileRequest(id=each)) for each in chosen]
            try:
                client.BatchWriteProfiles(pb.BatchWriteProfilesRequest(writes=writes), timeout=60.0)
            except grpc.RpcError as error:
                checks.that(False, f"{when}: deleting what was imported: {error.code()}")
                return
        self._file.unlink()
