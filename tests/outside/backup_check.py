"""Backups under load, again and again, with kills, and what comes of them, against the release build.

In each round a backup is made while writers write. Sometimes its client is killed in the middle of it, sometimes the server. What a
backup restores to must be the store as of one change: of each writer all writes up to one, nothing less than what had been
answered before the backup began, nothing that began after it had ended. Then the kept log is followed to its end, to a change or to a time,
and the same holds for that. Files that are cut or have a changed bit are refused and leave nothing, and a restore that is killed leaves
nothing that opens. On the worst day the data directory is gone: the backup takes its place, and a watcher is told to start over, and does.

Usage: backup_check.py [ROUNDS] [SEED]
"""

import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from datetime import datetime, timezone
from math import inf
from pathlib import Path

import grpc

from backup_oracle import HistoryBatches, HistoryWriter, Part, check_moment
from checks import Checks
from error_details import reason_of
from kill_oracle import content
from paging import all_profiles, count
from power_check import LARGEST_GROUP
from server import Server, ServerFailed, clean_environment, profiles, release_binary
from stubs import Profile, pb
from watch_check import Belief
from whole_store import MARKER, Replay, verify_by_call, verify_without_a_server

SAMPLE = 15_000
SAMPLE_PREFIX = "user-"
WRITERS = 6
LOAD_SECONDS = (0.05, 0.3)
# How long after it began to be made, or after its first bytes came, a backup is killed; and a restore after its begin.
KILL_MAKING_SECONDS = (0.0, 0.2)
KILL_SENDING_SECONDS = (0.0, 0.015)
KILL_RESTORE_SECONDS = (0.0, 0.2)
COMMAND_SECONDS = 120.0
KINDS = ("whole", "client killed", "server killed", "worst day")
UNTIL = ("end", "change", "time")
FLIPS = 2
CUTS = 2


def command(*arguments: str | Path, server: Server | None = None) -> subprocess.Popen[str]:
    """The program's own command line."""
    environment = {"PROFILESTORE_ADDR": server.address} if server else {}
    return subprocess.Popen(
        [str(release_binary()), *(str(argument) for argument in arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(environment),
    )


def as_of(said: str) -> int:
    """The change that a backup or a restore says it is as of."""
    change = re.search(r"as of change (\d+)", said)
    assert change, f"no change is named: {said}"
    return int(change.group(1))


class Rounds:
    """One server, its writers, and its backups."""

    def __init__(self, checks: Checks, scratch: Path, server: Server, seed: int) -> None:
        self.checks = checks
        self.figures: Counter[str] = Counter()
        self._scratch = scratch
        self._server = server
        self._chance = random.Random(seed)
        self._writers = [HistoryWriter(number, seed) for number in range(WRITERS)]
        self._batches = HistoryBatches(seed)
        self._when = ""
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._channels: list[grpc.Channel] = []
        with server.channel() as channel:
            self._sample = self._of_sample(all_profiles(profiles(channel)))
        checks.equal(len(self._sample), SAMPLE, "profiles before the load")

    @staticmethod
    def _of_sample(records: list[Profile]) -> list[tuple[str, str, str, dict[str, str]]]:
        return [content(record) for record in records if record.id.startswith(SAMPLE_PREFIX)]

    def run(self, number: int) -> None:
        """One round."""
        kind = KINDS[number % len(KINDS)]
        self._when = f"round {number} ({kind})"
        file = self._scratch / f"{number}.backup"
        self._begin_load()
        try:
            self._wait_a_little()
            made = self._backup(file, kind)
            if kind == "server killed":
                self._end_load()
                self._server.start()
                self._settle()
                self._begin_load()
            if made is None:
                made = self._backup(file, "whole")
            assert made is not None
            after, change, before = made
            self._wait_a_little()
            moment = time.time()
            self._wait_a_little()
        finally:
            self._end_load()
        self._settle()
        dir = self._scratch / "restored"
        said = self._restore(file, dir)
        self.checks.equal(as_of(said), change, f"{self._when}: the change of the restore")
        parts = self._open_and_compare(dir, after, before)
        shutil.rmtree(dir)
        self._follow_the_log(file, dir, UNTIL[number % len(UNTIL)], change, parts, moment)
        self._damage(file)
        self._kill_a_restore(file, dir)
        if kind == "worst day":
            self._lose_everything(file, after, before)
        else:
            self._forget_histories()
        file.unlink()

    def _wait_a_little(self) -> None:
        # The one thing to wait for here is time itself.
        time.sleep(self._chance.uniform(*LOAD_SECONDS))

    def _begin_load(self) -> None:
        self._stop.clear()
        self._channels = [self._server.channel() for _ in range(3)]
        clients = [profiles(channel) for channel in self._channels]
        runs = [writer.run for writer in self._writers] + [self._batches.run]
        self._threads = [
            threading.Thread(target=run, args=(clients[place % 3], self._stop)) for place, run in enumerate(runs)
        ]
        for thread in self._threads:
            thread.start()

    def _end_load(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for channel in self._channels:
            channel.close()
        self._threads, self._channels = [], []

    def _settle(self) -> None:
        """With nobody writing: what became of writes in flight."""
        with self._server.channel() as channel:
            found = {record.id: record for record in all_profiles(profiles(channel))}
        self._batches.settle(found, self.checks, self._when)
        for writer in self._writers:
            writer.settle(found)
            self.checks.equal(writer.problems, [], f"{self._when}: problems of a writer")
            writer.problems.clear()

    def _forget_histories(self) -> None:
        with self._server.channel() as channel:
            self._begin_anew({record.id: record for record in all_profiles(profiles(channel))})

    def _begin_anew(self, found: dict[str, Profile]) -> None:
        for writer in self._writers:
            writer.begin_anew(found)
        self._batches.begin_anew(found, self.checks, self._when)

    def _backup(self, file: Path, kind: str) -> tuple[float, int, float] | None:
        """A backup, killed in the middle or not. Of a whole one: when it began, its change, and when it had ended."""
        partial = Path(f"{file}.partial")
        after = time.time()
        # While a snapshot is made the server sends a sign of life once a second; one that was killed is waited for as long.
        process = command("backup", file, "--timeout", "6s", server=self._server)
        if kind in ("client killed", "server killed"):
            sending = self._chance.random() < 0.5

            def has_begun() -> bool:
                begun = partial.exists() and (partial.stat().st_size > 0 or not sending)
                return begun or process.poll() is not None

            while not has_begun():
                time.sleep(0.001)
            time.sleep(self._chance.uniform(*(KILL_SENDING_SECONDS if sending else KILL_MAKING_SECONDS)))
            if kind == "client killed":
                process.kill()
            else:
                self._server.kill()
        out, errors = process.communicate(timeout=COMMAND_SECONDS)
        before = time.time()
        if process.returncode == 0:
            self.figures["backups"] += 1
            self.checks.that(not partial.exists(), f"{self._when}: nothing partial is left of a whole backup")
            return after, as_of(out), before
        self.figures[f"backups whose {kind.split()[0]} was killed"] += 1
        if kind == "client killed" and process.returncode == -9:
            # Between the file's name and the last line it may be killed too.
            if file.exists():
                file.unlink()
            elif partial.exists():
                self._refused(partial, "the part of a backup whose client was killed", may_be_whole=True)
            return None
        said = f"exit code {process.returncode}: {errors[-400:]}"
        self.checks.that(kind == "server killed" and errors != "", f"{self._when}: a backup failed with {said}")
        self.checks.that(not file.exists() and not partial.exists(), f"{self._when}: a failed backup left a file")
        return None

    def _restore(self, file: Path, dir: Path, *more: str | Path) -> str:
        """A restore that must succeed; what it says."""
        process = command("restore", file, "--data-dir", dir, *more)
        out, errors = process.communicate(timeout=COMMAND_SECONDS)
        self.checks.equal(process.returncode, 0, f"{self._when}: exit code of restore {more}, which says: {errors[-400:]}")
        self.figures["restores"] += 1
        verify_without_a_server(self.checks, dir, f"{self._when}: restored")
        return out

    def _open_and_compare(self, dir: Path, after: float, before: float) -> list[Part]:
        with Server(data_dir=dir) as server, server.channel() as channel:
            records = all_profiles(profiles(channel))
            self.checks.equal(count(profiles(channel)), len(records), f"{self._when}: count of what is restored")
            verify_by_call(self.checks, channel, len(records), f"{self._when}: restored")
            channel.close()
            self.checks.equal(server.stop(), 0, f"{self._when}: exit code of a restored server")
        return self._compare(records, after, before)

    def _compare(self, records: list[Profile], after: float, before: float) -> list[Part]:
        """It is the store as of one change, between the two times."""
        found = {record.id: record for record in records}
        self.checks.that(self._of_sample(records) == self._sample, f"{self._when}: the profiles that nobody writes")
        batches = self._batches.values(found, self.checks, self._when)
        parts, owned = [self._batches.history.parts(batches, after, before)], 0
        for writer in self._writers:
            own = {key: profile for key, profile in found.items() if writer.owns(key)}
            owned += len(own)
            parts.append(writer.history.parts(writer.values(own), after, before))
        others = sum(not self._batches.owns(key) and key != MARKER for key in found) - owned - SAMPLE
        self.checks.equal(others, 0, f"{self._when}: profiles that nobody wrote")
        there = [part for part in parts if part is not None]
        lacking = len(parts) - len(there)
        self.checks.equal(lacking, 0, f"{self._when}: writers of whom not all writes up to one, in time, are there")
        check_moment(self.checks, there, self._when)
        return there

    def _follow_the_log(self, file: Path, dir: Path, until: str, change: int, parts: list[Part], moment: float) -> None:
        """From the backup with the log of the server, which runs, to the log's end, a change or a time."""
        end = as_of(self._restore(file, dir, "--log", self._server.data_dir))
        self.checks.that(end >= change, f"{self._when}: the log ends with {end}, before the backup's {change}")
        if until != "end":
            shutil.rmtree(dir)
        after, before, to = inf, inf, str(end)
        if until == "change":
            after, before, to = 0.0, inf, str(self._chance.randint(change, end))
        elif until == "time":
            after = before = moment
            to = datetime.fromtimestamp(moment, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        if until != "end":
            end = as_of(self._restore(file, dir, "--log", self._server.data_dir, "--until", to))
        if until == "change":
            # What was committed together, such as a batch of a hundred and some more writes, comes whole or not at all.
            self.checks.that(int(to) - LARGEST_GROUP < end <= int(to), f"{self._when}: change {end} for one until {to}")
        self.figures[f"restores to a {until}" if until != "end" else "restores to the end"] += 1
        later = self._open_and_compare(dir, after, before)
        least = sum(part.changes(part.least) for part in later) - sum(part.changes(part.most) for part in parts)
        most = sum(part.changes(part.most) for part in later) - sum(part.changes(part.least) for part in parts)
        if len(later) == len(parts):
            made = f"{least} to {most} changes were made, and the restores are {end - change} apart"
            self.checks.that(least <= end - change <= most, f"{self._when}: {made}")
        shutil.rmtree(dir)

    def _refused(self, file: Path, what: str, may_be_whole: bool = False) -> None:
        dir = self._scratch / "refused"
        process = command("restore", file, "--data-dir", dir)
        _, errors = process.communicate(timeout=COMMAND_SECONDS)
        if process.returncode == 0 and may_be_whole:
            verify_without_a_server(self.checks, dir, f"{self._when}: {what}")
            shutil.rmtree(dir)
            return
        self.figures["files refused"] += 1
        self.checks.that(process.returncode != 0 and errors != "", f"{self._when}: {what} is not refused")
        self.checks.that(not dir.exists() or not any(dir.iterdir()), f"{self._when}: {what} left a directory")
        shutil.rmtree(dir, ignore_errors=True)

    def _damage(self, file: Path) -> None:
        """Files that are cut or have one changed bit are refused."""
        whole = file.read_bytes()
        damaged = self._scratch / "damaged"
        for _ in range(FLIPS):
            flipped, at = bytearray(whole), self._chance.randrange(len(whole))
            flipped[at] ^= 1 << self._chance.randrange(8)
            damaged.write_bytes(flipped)
            self._refused(damaged, f"a backup of {len(whole)} bytes with a changed bit at {at}")
        for _ in range(CUTS):
            length = self._chance.choice([len(whole) - 1, self._chance.randrange(len(whole))])
            damaged.write_bytes(whole[:length])
            self._refused(damaged, f"a backup of {len(whole)} bytes cut to {length}")

    def _kill_a_restore(self, file: Path, dir: Path) -> None:
        """Either nothing opens, or all of it was there."""
        process = command("restore", file, "--data-dir", dir)
        time.sleep(self._chance.uniform(*KILL_RESTORE_SECONDS))
        process.kill()
        process.communicate()
        self.figures["restores killed" if process.returncode else "restores that ended before the kill"] += 1
        if (dir / "FORMAT").exists():
            verify_without_a_server(self.checks, dir, f"{self._when}: a restore was killed at its end")
        elif dir.exists() and any(dir.iterdir()):
            verify = command("verify", "--data-dir", dir)
            verify.communicate(timeout=COMMAND_SECONDS)
            self.checks.that(verify.returncode != 0, f"{self._when}: half a restore is taken for a store")
            with tempfile.TemporaryDirectory() as folder:
                opened = self._opens(dir, Path(folder))
            self.checks.that(not opened, f"{self._when}: half a restore is served")
        shutil.rmtree(dir, ignore_errors=True)

    def _opens(self, dir: Path, folder: Path) -> bool:
        server = Server(data_dir=dir)
        try:
            server.spawn()
            return server.wait(COMMAND_SECONDS) == 0
        except ServerFailed:
            return True
        finally:
            server.__exit__(None, None, None)

    def _lose_everything(self, file: Path, after: float, before: float) -> None:
        """The data directory is gone under load; the backup takes its place on the old address."""
        with self._server.channel() as channel:
            request = pb.WatchProfilesRequest(start_at=pb.WATCH_START_NOW)
            token = next(iter(profiles(channel).WatchProfiles(request, timeout=30.0))).resume_token
        self._server.kill()
        shutil.rmtree(self._server.data_dir)
        self._restore(file, self._server.data_dir)
        self._server.start()
        with self._server.channel() as channel:
            client = profiles(channel)
            records = all_profiles(client)
            self._compare(records, after, before)
            try:
                next(iter(client.WatchProfiles(pb.WatchProfilesRequest(resume_token=token), timeout=30.0)))
                self.checks.that(False, f"{self._when}: a watcher of before the restore goes on")
            except grpc.RpcError as error:
                said = (error.code(), reason_of(error)[1])
                wanted = (grpc.StatusCode.OUT_OF_RANGE, "FEED_TRUNCATED")
                self.checks.equal(said, wanted, f"{self._when}: what a watcher of before the restore is told")
        self._begin_anew({record.id: record for record in records})
        watcher = Replay(Belief(pb.WatchProfilesRequest(start_at=pb.WATCH_START_NOW, include_snapshot=True)))
        watcher.check(self.checks, self._server, records, f"{self._when}: started over")
        self._begin_load()
        self._wait_a_little()
        self._end_load()
        self._settle()
        with self._server.channel() as channel:
            records = all_profiles(profiles(channel))
        watcher.check(self.checks, self._server, records, f"{self._when}: after more writes")
        self.figures["worst days"] += 1
        self._forget_histories()

    def acknowledged(self) -> int:
        """How many writes were acknowledged."""
        return sum(writer.acknowledged for writer in self._writers) + self._batches.acknowledged


def main() -> None:
    """Rounds, and the last line."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 6
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(2**32)
    print(f"seed {seed}", flush=True)
    checks = Checks("backup_check")
    scratch = Path(tempfile.mkdtemp(prefix="profilestore-backups-"))
    try:
        with Server("--sample", str(SAMPLE)) as server:
            run = Rounds(checks, scratch, server, seed)
            for number in range(rounds):
                run.run(number)
                if number % 10 == 9 or number == rounds - 1:
                    checks.section(f"{number + 1} rounds, {checks.failed} failures")
            checks.equal(server.stop(), 0, "exit code after SIGTERM")
            verify_without_a_server(checks, server.data_dir, "after the orderly stop")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    figures = run.figures
    if rounds >= 2 * len(KINDS):
        for what in (*(f"backups whose {who} was killed" for who in ("client", "server")), "restores killed", "worst days"):
            checks.that(figures[what] > 0, f"{what}: none")
    said = ", ".join(f"{number} {what}" for what, number in sorted(figures.items()))
    print(f"{rounds} rounds, {run.acknowledged()} acknowledged writes; {said}")
    checks.finish()


if __name__ == "__main__":
    main()
