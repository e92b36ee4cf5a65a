"""A small disk that the load itself fills, for disk_check.py: low, with room again, full to the last byte, killed, opened, room."""

import errno
import os
import random
import signal
from pathlib import Path

from checks import Checks, eventually
from filling_load import DISK_LOW, WRITERS, FillingLoad, FillingWriter
from images import Mount, make_image
from paging import all_profiles
from server import STOP_SECONDS, Server, profiles
from whole_store import verify_by_call

MIB = 1024 * 1024
IMAGE_BYTES = 640 * MIB
# What somebody else has on the disk and takes away, one after the other.
OTHERS = 2
OTHER_BYTES = 80 * MIB
BALLAST_BYTES = 160 * MIB
SETTINGS = f"[store]\nmin_free_bytes = {64 * MIB}\nballast_bytes = {BALLAST_BYTES}\n"
FILLING_SECONDS = 180.0
# A writer asks again every 50 ms, so these take longer than the room of a removed file takes to come back (the filesystem's
# journal, 5 s) and than what was written takes to be flushed.
REFUSALS_IN_A_ROW = 150
# How many reads of each reader show that reads go on.
MORE_READS = 200
FAILED = "the store has failed; it takes no more writes and must be opened anew"


def fill_to_the_brim(folder: Path) -> list[Path]:
    """Takes all of the disk's room, most of it at once."""
    fillers = [folder / f"filler-{number}" for number in range(4)]
    with fillers[0].open("wb") as file:
        room = os.statvfs(folder)
        left = room.f_bavail * room.f_frsize
        while left > MIB:
            try:
                os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), left)
            except OSError as error:
                assert error.errno == errno.ENOSPC
                left //= 2
    for path, size in zip(fillers[1:], (MIB, 4096, 1)):
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


class SmallDisk:
    """One small disk with a server on it, its writers and what they know."""

    def __init__(self, checks: Checks, disk: Path, server: Server) -> None:
        self.checks = checks
        self.disk = disk
        self.server = server
        self.seed = random.randrange(2**32)
        self.writers = [FillingWriter(number, self.seed) for number in range(WRITERS)]

    def load(self) -> FillingLoad:
        """Writers and readers."""
        return FillingLoad(self.server, self.writers, self.seed)

    def expect(self, load: FillingLoad, answer: str, when: str) -> None:
        """Each writer is given this answer, from now on once more, and readers go on meanwhile."""
        answers, reads = load.answers(answer), list(load.reads)

        def is_so() -> bool:
            more = all(now > before for now, before in zip(load.answers(answer), answers))
            read = all(now > before + MORE_READS for now, before in zip(load.reads, reads))
            return bool(load.problems or load.others()) or (more and read)

        self.checks.that(eventually(is_so, FILLING_SECONDS), f"{when}: {answer} for every writer, and reads that go on")
        self.checks.equal((load.problems, load.others()), ([], {}), f"{when}: reads that failed, and other answers")

    def rest(self, load: FillingLoad, when: str) -> None:
        """Waits until nothing was written for some time, neither for the writers, who were refused again and again, nor behind
        their backs, as the disk's room says."""
        rests, refused = None, [0] * WRITERS

        def is_so() -> bool:
            nonlocal rests, refused
            now = (load.answers("OK"), os.statvfs(self.disk).f_bfree)
            if now != rests:
                rests, refused = now, load.answers(DISK_LOW)
            often = all(now >= before + REFUSALS_IN_A_ROW for now, before in zip(load.answers(DISK_LOW), refused))
            return bool(load.problems or load.others()) or often

        self.checks.that(eventually(is_so, FILLING_SECONDS), f"{when}: refusals in a row for every writer")
        self.checks.equal((load.problems, load.others()), ([], {}), f"{when}: reads that failed, and other answers")

    def compare(self, when: str) -> int:
        """Everything that was acknowledged is there, and the store is whole. Returns how many profiles there are."""
        with self.server.channel() as channel:
            found = {profile.id: profile for profile in all_profiles(profiles(channel), 200)}
            there = sum(writer.settle(found, self.checks, when) for writer in self.writers)
            self.checks.equal(len(found), there, f"{when}: profiles, of which nobody wrote some")
            verify_by_call(self.checks, channel, len(found), when)
        return there


def check_filling(checks: Checks, scratch: Path) -> None:
    """Writers up to DISK_LOW, room, DISK_LOW again, no room at all, a kill, an open, and room; readers all the time."""
    image = scratch / "disk.img"
    make_image(image, IMAGE_BYTES)
    with Mount(image, scratch / "disk") as disk, Server(config=SETTINGS, data_dir=disk / "data") as server:
        others = [disk / f"other-{number}" for number in range(OTHERS)]
        for other in others:
            other.write_bytes(bytes(OTHER_BYTES))
        small = SmallDisk(checks, disk, server)
        with small.load() as load:
            small.expect(load, DISK_LOW, "filled by the load")
            room = os.statvfs(disk)
            checks.that(room.f_bavail * room.f_frsize > 32 * MIB, "writes are refused while there is room left")
            checks.section(f"low after {sum(load.answers('OK'))} batches and {sum(load.reads)} reads; now there is room")
            others[0].unlink()
            small.expect(load, "OK", "with room again")
            small.expect(load, DISK_LOW, "filled by the load once more")
            # Who takes the room while something is still being written makes the store fail (check_sudden_filling).
            small.rest(load, "low once more")
            fillers = fill_to_the_brim(disk)
            small.expect(load, DISK_LOW, "no room at all")
            checks.section(f"full after {sum(load.answers('OK'))} batches and {sum(load.reads)} reads; a kill")
            load.may_go = True
            server.kill()
        server.start()
        checks.that(not (disk / "data" / "ballast").exists(), "the ballast was given up to open")
        checks.section(f"opened on the full disk with {small.compare('opened on the full disk')} profiles")
        with small.load() as load:
            small.expect(load, DISK_LOW, "opened on the full disk")
            for path in [others[1], *fillers]:
                path.unlink()
            small.expect(load, "OK", "room after the full disk")
            # The room of a removed file comes back with the filesystem's next journal commit; the server looks every 2 s.
            checks.that(eventually(lambda: ballast_is_whole(disk)), "the ballast is back")
        small.compare("with room")
        checks.equal(server.stop(), 0, "exit code")


def check_sudden_filling(checks: Checks, scratch: Path) -> None:
    """Others take all the room at once while writers write: what is acknowledged meanwhile is there, whatever becomes of the server."""
    image = scratch / "other.img"
    make_image(image, IMAGE_BYTES)
    with Mount(image, scratch / "other") as disk, Server(config=SETTINGS, data_dir=disk / "data") as server:
        small = SmallDisk(checks, disk, server)
        with small.load() as load:
            small.expect(load, "OK", "with room")
            load.may_go = True
            fillers = fill_to_the_brim(disk)
            # Either it has asked how much room there is in time, or the log found none.
            eventually(lambda: min(load.answers(DISK_LOW)) > 0 or bool(load.others()))
            # It may also find none between the refusals and the kill.
            code = server.wait(STOP_SECONDS) if load.others() else server.kill_unless_ended()
            ended = code != -signal.SIGKILL
            if ended:
                checks.equal(code, 1, "exit code when the log found no room")
                checks.that(FAILED in server.log(), "the line says that the store has failed")
            checks.that(set(load.others()) <= {"STORE_FAILED", "DRAINING", "UNAVAILABLE"}, f"answers {load.others()}")
            checks.equal(load.problems, [], "reads that failed")
        server.start()
        how = "the log found no room and the server ended" if ended else "refused in time, and killed"
        checks.section(f"full at once ({how}); opened with {small.compare('full at once')} profiles")
        with small.load() as load:
            small.expect(load, DISK_LOW, "opened after it was full at once")
            for path in fillers:
                path.unlink()
            small.expect(load, "OK", "room after it was full at once")
        small.compare("room after it was full at once")
        checks.equal(server.stop(), 0, "exit code")
