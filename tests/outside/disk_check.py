"""A disk that fills up and a disk that does not come back, against the release build.

First the syncs of the commit log, and then those of sled, take longer than store.sync_timeout: the process must end with 1 and a
line that says why; so it must when a read does not return, and when the disk hangs while the server is stopped. And with every
sync delayed by 50 ms, gets must be answered as before: how long they take is printed.

Last the data directory is on a small filesystem of its own, and writers fill it while readers read (`full_disk.py`): the server
refuses with DISK_LOW before the disk is full, reads go on, and with room again writes are taken by themselves. Then the disk is
filled to the last byte under the same load, the server is killed, and it must open on the full disk with everything that was
acknowledged. Also when the room goes at once, before the server has asked how much there is.

Usage: disk_check.py. Mounting needs root and loop devices; says so and leaves that part out where they are missing.
"""

import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import grpc

from checks import PATIENCE_SECONDS, Checks, eventually
from error_details import reason_of
from full_disk import check_filling, check_sudden_filling
from paging import all_profiles
from power_check import mounts_work
from preload import preloaded
from server import STOP_SECONDS, Server, ServerFailed, clean_environment, profiles, release_binary
from stubs import Profile, pb, service

SLOW_SETTINGS = "[store]\nsync_timeout = \"1s\"\n[server]\ndrain_timeout = \"1s\"\n"
SYNC_MILLISECONDS = 50
SAMPLE = 10_000
HOT = "100"
BATCH = 100


def batch(number: int) -> list[Profile]:
    """A hundred profiles of 12 KB."""
    text = f"{number:08d}" * 1500
    return [
        Profile(id=f"{number}-{index}", email=f"u{index}@d{number % 7}.example", attributes={"a": text})
        for index in range(BATCH)
    ]


class Filler:
    """Writes profiles and remembers the ids that were acknowledged."""

    def __init__(self, client: service.ProfileServiceStub) -> None:
        self.client = client
        self.acknowledged: set[str] = set()
        self._number = 0

    def write(self) -> str:
        """Writes one batch; returns the reason of a refusal, or nothing."""
        self._number += 1
        # A batch holds at most 1 MiB.
        for part in (batch(self._number)[:50], batch(self._number)[50:]):
            writes = [pb.ProfileWrite(create=pb.CreateProfileRequest(profile=profile)) for profile in part]
            try:
                self.client.BatchWriteProfiles(pb.BatchWriteProfilesRequest(writes=writes), timeout=30.0)
            except grpc.RpcError as error:
                return reason_of(error)[1] or str(error.code())
            self.acknowledged.update(profile.id for profile in part)
        return ""


def same_profiles(checks: Checks, client: service.ProfileServiceStub, filler: Filler, when: str) -> None:
    """What was acknowledged is there."""
    found = {profile.id for profile in all_profiles(client, 200)}
    checks.equal(len(filler.acknowledged - found), 0, f"{when}: acknowledged profiles that are missing")


def check_slow_disk(checks: Checks, scratch: Path, about: str, named: str) -> None:
    """Syncs that take too long end the server with a clear line."""
    checks.section(f"syncs of {about} that do not return")
    switch = scratch / "slow"
    environment = preloaded(scratch, "slow_disk", SLOW_DISK=about, SLOW_DISK_SWITCH=str(switch))
    switch.unlink(missing_ok=True)
    server = Server(config=SLOW_SETTINGS, environment=environment)
    server.start()
    try:
        with server.channel() as channel:
            filler = Filler(profiles(channel))
            checks.equal(filler.write(), "", "a write while the disk is well")
            switch.touch()
            began = time.monotonic()
            # sled is flushed behind the answer, so some writes may be made.
            reason = ""
            while not reason and time.monotonic() < began + PATIENCE_SECONDS:
                reason = filler.write()
            checks.that(time.monotonic() - began < PATIENCE_SECONDS / 2, f"{about}: callers are answered soon")
            checks.that(reason in ("STORE_FAILED", "DRAINING", "StatusCode.UNAVAILABLE"), f"{about}: answer {reason}")
        code = server.wait(STOP_SECONDS)
        checks.equal(code, 1, f"{about}: exit code")
        checks.that(f"{named} has not returned within 1s" in server.log(), f"{about}: the line says why")
        switch.unlink()
        server.start()
        with server.channel() as channel:
            same_profiles(checks, profiles(channel), filler, f"{about}: after the restart")
        checks.equal(server.stop(), 0, f"{about}: exit code after the restart")
    except ServerFailed as failure:
        checks.that(False, f"{about}: {failure}")
    finally:
        server.__exit__(None, None, None)


def check_slow_reads(checks: Checks, scratch: Path) -> None:
    """A read that does not return takes its serving thread along, and the process ends all the same."""
    checks.section("a read that does not return")
    switch = scratch / "slow"
    environment = preloaded(scratch, "slow_disk", SLOW_DISK_READS="/sled/", SLOW_DISK_SWITCH=str(switch))
    switch.unlink(missing_ok=True)
    server = Server("--sample", str(SAMPLE), config=SLOW_SETTINGS, environment=environment)
    try:
        server.start()
        # After a start behind a clean close nothing has been read yet.
        checks.equal(server.stop(), 0, "exit code")
        server.start()
        with server.channel() as channel:
            switch.touch()
            ids = [f"user-{number:08d}" for number in range(0, SAMPLE, 10)]
            began = time.monotonic()
            calls = [profiles(channel).GetProfile.future(pb.GetProfileRequest(id=id), timeout=PATIENCE_SECONDS) for id in ids]
            code = server.wait(STOP_SECONDS)
            checks.equal(code, 1, "exit code")
            checks.that(time.monotonic() - began < PATIENCE_SECONDS, "the process ends soon")
            checks.that(any(call.code() != grpc.StatusCode.OK for call in calls), "some reads got no answer")
        checks.that("a read of the state has not returned within 1s" in server.log(), "the line says why")
        checks.that("the drain has not ended within" in server.log(), "the end did not wait for the thread")
        switch.unlink()
        server.start()
        checks.equal(server.stop(), 0, "exit code after the restart")
    except ServerFailed as failure:
        checks.that(False, f"a read that hangs: {failure}")
    finally:
        server.__exit__(None, None, None)


def check_slow_stop(checks: Checks, scratch: Path, about: str, named: str) -> None:
    """Syncs that hang while the server is stopped."""
    checks.section(f"syncs of {about} that do not return while the server is stopped")
    switch = scratch / "slow"
    environment = preloaded(scratch, "slow_disk", SLOW_DISK=about, SLOW_DISK_SWITCH=str(switch))
    switch.unlink(missing_ok=True)
    server = Server(config=SLOW_SETTINGS, environment=environment)
    try:
        server.start()
        with server.channel() as channel:
            filler = Filler(profiles(channel))
            checks.equal(filler.write(), "", "a write while the disk is well")
        switch.touch()
        checks.equal(server.stop(), 1, f"{about}: exit code")
        checks.that(f"{named} has not returned within 1s" in server.log(), f"{about}: the line says why")
        switch.unlink()
        server.start()
        with server.channel() as channel:
            same_profiles(checks, profiles(channel), filler, f"{about}: after the restart")
        checks.equal(server.stop(), 0, f"{about}: exit code after the restart")
    except ServerFailed as failure:
        checks.that(False, f"{about}: {failure}")
    finally:
        server.__exit__(None, None, None)


def load(server: Server, *arguments: str) -> subprocess.Popen[str]:
    """The program's own load generator."""
    command = [str(release_binary()), "load", "--json", "--duration", "3s", *arguments]
    environment = clean_environment({"PROFILESTORE_ADDR": server.address})
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)


def check_delayed_syncs(checks: Checks, scratch: Path) -> None:
    """Gets of cached profiles while puts wait for syncs, without and with a delay of each."""
    checks.section(f"gets while puts wait for syncs, each of which is delayed by {SYNC_MILLISECONDS} ms")
    switch = scratch / "delayed"
    environment = preloaded(
        scratch,
        "slow_disk",
        SLOW_DISK="/data/",
        SLOW_DISK_SWITCH=str(switch),
        SLOW_DISK_MILLISECONDS=str(SYNC_MILLISECONDS),
    )
    with Server("--sample", str(SAMPLE), environment=environment) as server:
        for what, puts in (("no puts", False), ("puts", True), ("puts, each sync delayed", True)):
            if what.endswith("delayed"):
                switch.touch()
            writers = load(server, "--mix", "put=1", "--writes", "--uniform", "--concurrency", "16") if puts else None
            gets = json.loads(load(server, "--rate", "500", "--concurrency", "4096", "--keys", HOT, "--warmup", "1s").communicate()[0])["all"]
            took = gets["latencyMicros"]
            said = f"{what}: gets p50 {took['p50'] / 1000:.2f} ms, p99 {took['p99'] / 1000:.2f} ms"
            if writers:
                made = json.loads(writers.communicate()[0])["all"]
                checks.equal(made["errors"], 0, f"{what}: puts that failed")
                said += f"; {made['perSecond']:.0f} puts/s, p50 {made['latencyMicros']['p50'] / 1000:.1f} ms"
            print(said, flush=True)
            checks.equal((gets["errors"], gets["requests"] > 1000), (0, True), f"{what}: gets that failed")
        switch.unlink()
        checks.equal(server.stop(), 0, "exit code")


def main() -> None:
    """All parts, and the last line."""
    checks = Checks("disk_check")
    scratch = Path(tempfile.mkdtemp(prefix="profilestore-disk-"))
    try:
        check_slow_disk(checks, scratch, "/commit-log/", "a sync of the commit log")
        check_slow_disk(checks, scratch, "/sled/", "a flush of sled")
        check_slow_reads(checks, scratch)
        check_slow_stop(checks, scratch, "/commit-log/", "a sync of the commit log")
        check_delayed_syncs(checks, scratch)
        if os.geteuid() != 0 or not mounts_work(scratch):
            print("disk_check: PART NOT RUN: a small disk needs root and loop devices")
        else:
            checks.section("a small disk")
            check_filling(checks, scratch)
            check_sudden_filling(checks, scratch)
    except subprocess.CalledProcessError as error:
        checks.that(False, f"{error}")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    checks.finish()


if __name__ == "__main__":
    main()
