"""A disk that fills up and a disk that does not come back, against the release build.

First a disk that hangs (`hanging_disk.py`): the process must end with 1 and a line that says why. Then, with every sync
delayed by 50 ms, gets must be answered as before: how long they take is printed.

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
from pathlib import Path

import hanging_disk
from checks import Checks
from full_disk import check_filling, check_sudden_filling
from images import mounts_work
from preload import preloaded
from server import Server, clean_environment, release_binary

SYNC_MILLISECONDS = 50
SAMPLE = 10_000
HOT = "100"


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
        hanging_disk.check_all(checks, scratch)
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
