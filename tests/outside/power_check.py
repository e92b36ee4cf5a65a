"""Cuts the power under load, again and again, with the oracle outside the server.

The data directory is on an ext4 image behind a loop device. For a cut the server is stopped where it is and the image
is copied: what the kernel had not been told to write is not in the copy. The copy is mounted, a second server opens
it, and everything that was acknowledged before the cut must be there. The server's clock runs ahead, so that snapshots
are made and the log is trimmed between the cuts; no state may have to be built anew. Of a run without a control it is also
asserted that no commit group has more than 128 writes, and that sled has written over segments that it had freed. What is left
to chance or hangs on the machine's speed is waited for: where it has not happened, more cuts are made.

Usage: power_check.py [CUTS] [SEED] [--control log|sled]

With --control the disk lies about the syncs of the commit log, or of sled's files (which is what sled does without our
hook). The check succeeds only if that loses data. Of a log that lied, what opens must lack what was acknowledged, by the word of the
same oracle: sled's files are taken away, since they know better, and there are no snapshots. Of what sled loses nothing may
be missing all the same as long as there are snapshots to build the state from; so after every other cut, also without a
control, they are taken away before the store opens, and in that control the check of the state at the start is turned off
with them. A store that does not open must say that it found damage; any other end of it fails the check.
Needs root and loop devices; says so and succeeds where they are missing.
"""

import argparse
import copy
import dataclasses
import json
import os
import random
import re
import shutil
import tempfile
import threading
import time
from collections import Counter, defaultdict
from contextlib import ExitStack
from pathlib import Path

import grpc

from batch_oracle import BatchWriter
from checks import Checks, eventually
from commit_groups import group_sizes, in_buckets
from images import Mount, copy_of_one_moment, make_image, mounts_work, run
from kill_check import check_index
from kill_oracle import Writer, spy
from paging import all_profiles
from preload import preloaded
from server import Server, ServerFailed, profiles
from sled_segments import Segments, segments
from stubs import Profile
from swarm_oracle import SwarmWriter

WRITERS = 12
IMAGE_BYTES = 768 * 1024 * 1024
LOAD_SECONDS = (0.05, 0.5)
# A fresh image after so many cuts, so that copies stay small.
CUTS_PER_IMAGE = 60
# How many times the cuts that were asked for are made at most, when something has not happened yet.
MOST_CUTS = 4
QUIET_SECONDS = 0.05
LIES = {"log": "/commit-log/", "sled": "/sled/"}
# Ten minutes of the server's clock in a second: so long no change leaves the log, whatever the settings.
FAST_CLOCK = "600"
SETTINGS = "[store]\nsnapshot_after_bytes = 1048576\nlog_keep_bytes = 1048576\n"
# No snapshot is made, so the log is all there is.
LOG_ALONE = "[store]\nsnapshot_after_bytes = 1099511627776\n"
# What a store says that does not open because something is lost.
FOUND_DAMAGE = re.compile(r"is damaged|cannot be built anew|the commit log (ends|begins|has)|cannot be opened")
UNCHECKED = "[store]\ncheck_at_open = \"never\"\n"
# The bound of src/engine/sled/commit_thread.rs; a request is never split and has at most 100 writes.
LARGEST_GROUP = 128
# From so many cuts on, what must happen in a run without a control is waited for.
CUTS_FOR_ALL = 10
REBUILT = "state was built anew, whole"
MADE_A_SNAPSHOT = "made a snapshot"
TRIMMED = "trimmed the commit log"


Known = tuple[list[Writer], BatchWriter, SwarmWriter]


class Figures:
    """What the cuts met, for the last lines."""

    def __init__(self) -> None:
        self.acknowledged = 0
        self.made: Counter[str] = Counter()
        # By image and first sequence number.
        self.groups: dict[tuple[int, int], int] = {}
        self.snapshots = 0
        self.trimmed = 0
        # sled's file at each cut, by image.
        self.files: dict[int, list[Segments]] = defaultdict(list)
        self.rebuilt = 0
        # What was wrong with the states that were built anew.
        self.damage: Counter[str] = Counter()
        self.not_opened = 0
        self.stored = 0

    def note_files(self, image: int, data: Path) -> None:
        """Looks at the log and at sled's file that a cut left."""
        self.groups |= {(image, first): size for first, size in group_sizes(data / "commit-log").items()}
        if (data / "sled" / "conf").exists():
            self.files[image].append(segments(data / "sled"))

    def reclaimed(self) -> dict[int, int]:
        """How many segments, by image, sled wrote over older ones between the first cut and the last."""
        return {image: files[-1].again() - files[0].again() for image, files in self.files.items()}

    def note_opening(self, server_log: str) -> None:
        """Looks at what a server said when it opened what a cut left."""
        for line in server_log.splitlines():
            if REBUILT in line:
                self.rebuilt += 1
                said = json.loads(line)
                damage = said.get("damage") or said["fields"]["damage"]
                self.damage[re.sub(r"\d+", "N", damage)] += 1

    def note_load(self, load: "Load", server_log: str) -> None:
        """Looks at a load that has ended."""
        self.acknowledged += load.acknowledged()
        for writer in load.writers:
            self.made += writer.made
        self.made["batch"] += load.batches.acknowledged
        self.made["of the swarm"] += load.swarm.acknowledged
        self.snapshots += server_log.count(MADE_A_SNAPSHOT)
        self.trimmed += server_log.count(TRIMMED)

    def show(self, cuts: int) -> None:
        """Prints them."""
        print(f"{cuts} cuts of power; {self.acknowledged} acknowledged writes; {self.stored} profiles at the last")
        print("acknowledged: " + ", ".join(f"{count} {kind}" for kind, count in sorted(self.made.items())))
        print(f"commit groups by their changes: {in_buckets(self.groups.values())}")
        print(f"{self.snapshots} snapshots made, the log trimmed {self.trimmed} times between the cuts")
        for image, again in sorted(self.reclaimed().items()):
            last = self.files[image][-1]
            said = f"{last.begun} segments begun, {last.places} places, {again} written over older ones between the cuts"
            print(f"sled's file on image {image}: {said}")
        print(f"{self.rebuilt} states built anew, {self.not_opened} stores not opened after a cut")
        for damage, count in self.damage.most_common():
            print(f"{count} times: {damage}")


class Load:
    """Writers against a server, until they are ended."""

    def __init__(self, server: Server, seed: int) -> None:
        self.writers = [Writer(number, seed) for number in range(WRITERS)]
        self.batches = BatchWriter(seed)
        self.swarm = SwarmWriter()
        self._stop = threading.Event()
        self._channels = [server.channel() for _ in range(5)]
        clients = [profiles(channel) for channel in self._channels]
        runs = [(writer.run, (clients[index % 3], self._stop)) for index, writer in enumerate(self.writers)]
        runs.append((self.batches.run, (clients[3], self._stop)))
        runs.append((self.swarm.run, (clients[4], self._stop)))
        runs.append((spy, (clients[3], self.writers, seed, self._stop)))
        self._threads = [threading.Thread(target=target, args=arguments) for target, arguments in runs]
        for thread in self._threads:
            thread.start()

    def acknowledged(self) -> int:
        """How many writes were acknowledged so far."""
        return sum(writer.acknowledged for writer in self.writers) + self.batches.acknowledged + self.swarm.acknowledged

    def known(self) -> Known:
        """What is known when the server is paused: after every answer that it had sent has been read."""
        count = -1
        while count != (count := self.acknowledged()):
            # Nothing can be waited for here: that no more answers come is seen only by their not coming.
            time.sleep(QUIET_SECONDS)
        writers = []
        for writer in self.writers:
            # First what is in flight: the last answer may come meanwhile all the same.
            in_flight = writer.in_flight
            twin = copy.copy(writer)
            twin.in_flight = dataclasses.replace(in_flight) if in_flight else None
            twin.stored, twin.problems = dict(writer.stored), []
            writers.append(twin)
        return writers, self.batches.twin(), self.swarm.twin()

    def end(self) -> None:
        """Ends the writers."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for channel in self._channels:
            channel.close()


def check_copy(
    checks: Checks, folder: Path, known: Known, chance: random.Random, when: str, figures: Figures, config: str | None
) -> None:
    """Opens what a cut left and compares it with what is known."""
    writers, batches, swarm = known
    with ExitStack() as stack:
        server = stack.enter_context(Server(data_dir=folder / "data", config=config))
        # A thread writes the log's lines, so they are read last.
        stack.callback(lambda: figures.note_opening(server.log()))
        channel = stack.enter_context(server.channel())
        client = profiles(channel)
        records = all_profiles(client, 1000)
        found = {record.id: record for record in records}
        batches.settle(found, checks, when)
        swarm.settle(found, checks, when)
        own: dict[str, Profile] = {
            key: value for key, value in found.items() if not batches.owns(key) and not swarm.owns(key)
        }
        for writer in writers:
            writer.settle(own)
            checks.that(not writer.problems, f"{when}: {'; '.join(writer.problems)}")
        known_ids = {profile_id for writer in writers for profile_id in writer.stored}
        checks.that(set(own) == known_ids, f"{when}: no profile that nobody wrote")
        check_index(checks, client, records, chance.choice([50, 1000]), when)
        channel.close()
        checks.equal(server.stop(), 0, f"{when}: exit code after SIGTERM")
    figures.stored = len(records)


def is_damage(failure: ServerFailed | grpc.RpcError) -> bool:
    """Whether a store did not open, or answers no more, because it has found damage, and not for any other reason."""
    if isinstance(failure, grpc.RpcError):
        return failure.code() == grpc.StatusCode.DATA_LOSS
    return FOUND_DAMAGE.search(str(failure)) is not None


class Cuts:
    """The cuts of one run."""

    def __init__(self, checks: Checks, chance: random.Random, scratch: Path, control: str | None, asked: int) -> None:
        self.checks = checks
        self.figures = Figures()
        # What a control loses.
        self.lost = Checks("control", quiet=True)
        self._chance = chance
        self._scratch = scratch
        self._control = control
        self._asked = asked
        self._images = 0
        lies = {"LYING_DISK": LIES[control]} if control else {}
        self._environment = preloaded(
            scratch, "fast_clock", *(["lying_disk"] if control else []), FAST_CLOCK=FAST_CLOCK, **lies
        )

    def cut_power(self, cuts: int, most: int) -> int:
        """Cuts on one image; more than `cuts`, but not more than `most`, as long as something is lacking. Returns how many."""
        image, twin = self._scratch / "disk.img", self._scratch / "copy.img"
        make_image(image, IMAGE_BYTES)
        self._images += 1
        with Mount(image, self._scratch / "disk") as disk:
            settings = LOG_ALONE if self._control == "log" else SETTINGS
            with Server(data_dir=disk / "data", environment=self._environment, config=settings) as server:
                load = Load(server, self._chance.randrange(2**32))
                try:
                    if self._control == "log":
                        # A beginning of the log is on disk, so that a store opens, with less.
                        self.checks.that(eventually(lambda: load.acknowledged() > 0), "nothing was acknowledged")
                        run("sync", "-f", disk / "data")
                    number = 0
                    while number < cuts or (number < most and self.lacking(server.log())):
                        # The one thing to wait for here is time itself.
                        time.sleep(self._chance.uniform(*LOAD_SECONDS))
                        server.pause()
                        known = load.known()
                        copy_of_one_moment(image, disk, twin)
                        server.resume()
                        with Mount(twin, self._scratch / "copy") as folder:
                            self._check(folder, known, number)
                        number += 1
                finally:
                    load.end()
                server.stop()
                self.figures.note_load(load, server.log())
        return number

    def lacking(self, server_log: str = "") -> list[str]:
        """What has not happened yet of all that must, with what a server that still runs has said."""
        figures = self.figures
        if self._control == "log":
            happened = {"the oracle missed something in a store whose log was not synced": self.lost.failed > 0}
        elif self._control:
            happened = {"the control lost something": self.lost.failed + figures.rebuilt + figures.not_opened > 0}
        elif self._asked < CUTS_FOR_ALL:
            happened = {}
        else:
            groups, reclaimed = figures.groups.values(), figures.reclaimed()
            happened = {
                "a commit group had more than 100 changes": max(groups, default=0) > 100,
                "a commit group had one change": 1 in groups,
                f"sled wrote over what it had freed, by image: {reclaimed}": min(reclaimed.values(), default=0) > 0,
                "a snapshot was made": figures.snapshots > 0 or MADE_A_SNAPSHOT in server_log,
                "the log was trimmed": figures.trimmed > 0 or TRIMMED in server_log,
            }
        return [what for what, has in happened.items() if not has]

    def _check(self, folder: Path, known: Known, number: int) -> None:
        checks, config = self.checks, None
        if self._control == "log" or (self._control == "sled" and number % 2 == 0):
            # Here something is to be lost.
            checks, config = self.lost, UNCHECKED
        if self._control != "sled":
            # There the files may say anything.
            self.figures.note_files(self._images, folder / "data")
        if self._control == "log":
            shutil.rmtree(folder / "data" / "sled")
        elif number % 2 == 0:
            # From these a state could be built anew. sled's own must do without.
            shutil.rmtree(folder / "data" / "snapshots")
        rebuilt = self.figures.rebuilt
        try:
            check_copy(checks, folder, known, self._chance, f"cut {number}", self.figures, config)
        except (ServerFailed, grpc.RpcError) as failure:
            if checks is self.checks or not is_damage(failure):
                self.checks.that(False, f"cut {number}: {failure}")
            self.figures.not_opened += 1
        if not self._control:
            checks.equal(self.figures.rebuilt - rebuilt, 0, f"cut {number}: states that sled had lost")

    def finish(self, cuts: int) -> None:
        """Prints what the cuts met, and ends the process."""
        self.figures.show(cuts)
        if self._control:
            failed, rebuilt, not_opened = self.lost.failed, self.figures.rebuilt, self.figures.not_opened
            print(f"lost: {failed} checks failed, {rebuilt} states built anew, {not_opened} stores found damaged")
        else:
            largest = max(self.figures.groups.values(), default=0)
            self.checks.that(largest <= LARGEST_GROUP, f"a commit group has {largest} changes")
        self.checks.equal(self.lacking(), [], f"what has not happened in {cuts} cuts")
        self.checks.finish()


def main() -> None:
    """Cuts, and the last line."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("cuts", type=int, nargs="?", default=15)
    arguments.add_argument("seed", type=int, nargs="?", default=random.randrange(2**32))
    arguments.add_argument("--control", choices=LIES)
    given = arguments.parse_args()
    print(f"seed {given.seed}", flush=True)
    checks = Checks("power_check" + (f" --control {given.control}" if given.control else ""))
    scratch = Path(tempfile.mkdtemp(prefix="profilestore-power-"))
    try:
        if os.geteuid() != 0 or not mounts_work(scratch):
            print("power_check: NOT RUN: it needs root and loop devices")
            return
        cuts = Cuts(checks, random.Random(given.seed), scratch, given.control, given.cuts)
        made = 0
        while made < given.cuts:
            some = min(given.cuts - made, CUTS_PER_IMAGE)
            made += cuts.cut_power(some, MOST_CUTS * some)
            checks.section(f"{made} cuts, {cuts.figures.acknowledged} writes, {checks.failed} failures")
        cuts.finish(made)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
