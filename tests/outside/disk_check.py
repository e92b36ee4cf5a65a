"""A disk that fills up and a disk that does not come back, against the release build.

First a disk that hangs (hanging_disk.py): the process must end with 1 and a line that says why. Then, with every sync delayed
by 50 ms, gets must be answered as before: how long they take is printed. Last the data directory is on a small filesystem of
its own. Profiles are written until the server refuses with DISK_LOW: before the disk is full, reads go on, and with room
again writes are taken by themselves. The disk is filled to the last byte, the server is killed, and it must open again with
everything that was acknowledged.

Usage: disk_check.py. Mounting needs root and loop devices; says so and leaves that part out where they are missing.
"""

import errno
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import hanging_disk
from checks import Checks, eventually
from filler import Filler, same_profiles
from power_check import Mount, make_image, mounts_work
from preload import preloaded
from server import Server, clean_environment, profiles, release_binary

MIB = 1024 * 1024
IMAGE_BYTES = 640 * MIB
# What somebody else has on the disk and takes away in the end.
OTHER_BYTES = 128 * MIB
BALLAST_BYTES = 160 * MIB
SETTINGS = f"[store]\nmin_free_bytes = {64 * MIB}\nballast_bytes = {BALLAST_BYTES}\n"
SYNC_MILLISECONDS = 50
SAMPLE = 10_000
HOT = "100"


def fill(folder: Path, leave: int) -> Path:
    """Takes the disk's room but for so many bytes."""
    path = folder / "filler"
    room = os.statvfs(folder)
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, room.f_bavail * room.f_frsize - leave))
    return path


def fill_to_the_brim(folder: Path) -> list[Path]:
    """Takes all of the disk's room."""
    fillers = [folder / f"filler-{size}" for size in (MIB, 4096, 1)]
    for path, size in zip(fillers, (MIB, 4096, 1)):
        with path.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"x" * size)
            except OSError as error:
                assert error.errno == errno.ENOSPC
    return fillers


def ballast_is_whole(disk: Path) -> bool:
    """Whether the ballast has its full size."""
    path = disk / "data" / "ballast"
    return path.exists() and path.stat().st_size == BALLAST_BYTES


def check_filling(checks: Checks, scratch: Path) -> None:
    """Low, full, killed, opened, and room again."""
    image = scratch / "disk.img"
    make_image(image, IMAGE_BYTES)
    with Mount(image, scratch / "disk") as disk, Server(config=SETTINGS, data_dir=disk / "data") as server:
        other = disk / "other"
        other.write_bytes(bytes(OTHER_BYTES))
        with server.channel() as channel:
            filler = Filler(profiles(channel))
            checks.equal(filler.write_until_refused(), "DISK_LOW", "reason of the first refused write")
            room = os.statvfs(disk)
            checks.that(room.f_bavail * room.f_frsize > 32 * MIB, "writes are refused while there is room left")
            same_profiles(checks, filler.client, filler, "low")
        checks.section(f"low with {len(filler.acknowledged)} profiles; now the disk is filled and the server killed")
        fillers = fill_to_the_brim(disk)
        server.restart_after_kill()
        with server.channel() as channel:
            filler.client = profiles(channel)
            checks.equal(filler.write(), "DISK_LOW", "reason of a refused write on the full disk")
            same_profiles(checks, filler.client, filler, "full")
            checks.that(not (disk / "data" / "ballast").exists(), "the ballast was given up to open")
        # The store has grown meanwhile (it wrote its log anew): without the other file there is surely room for the ballast.
        for path in [other, *fillers]:
            path.unlink()
        server.restart_after_kill()
        with server.channel() as channel:
            same_profiles(checks, profiles(channel), filler, "room")
            # The room of a removed file comes back with the filesystem's next journal commit; the server looks every 2 s.
            checks.that(eventually(lambda: ballast_is_whole(disk)), "the ballast is back")
        checks.equal(server.stop(), 0, "exit code")
    checks.section("room is made under a running server")
    check_resuming(checks, scratch)


def check_resuming(checks: Checks, scratch: Path) -> None:
    """Writes are taken again without a restart."""
    image = scratch / "other.img"
    make_image(image, IMAGE_BYTES)
    with Mount(image, scratch / "other") as disk, Server(config=SETTINGS, data_dir=disk / "data") as server:
        with server.channel() as channel:
            filler = Filler(profiles(channel))
            checks.equal(filler.write(), "", "a write with room")
            path = fill(disk, 48 * MIB)
            checks.equal(filler.write_until_refused(), "DISK_LOW", "reason of a refused write")
            path.unlink()
            checks.that(eventually(lambda: not filler.write()), "writes are taken again by themselves")
            same_profiles(checks, filler.client, filler, "resumed")
        checks.equal(server.stop(), 0, "exit code")


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
    except subprocess.CalledProcessError as error:
        checks.that(False, f"{error}")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    checks.finish()


if __name__ == "__main__":
    main()
