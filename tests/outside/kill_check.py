"""kill -9 under load, again and again, with the oracle outside the server.

Usage: kill_check.py [ROUNDS] [SEED] [--damage]

Some kills come in the middle of an import by the command line, which must then be finished by the same command with nothing
lost and nothing twice, and some while the server shuts down.
After each restart nothing that was acknowledged may be missing, batches are whole or absent, the index, the counters and the log
(a watch from the oldest change, replayed) come to the list of profiles, and Verify finds nothing; after the last one, and after
the orderly stop, a watch from the oldest change in one go and `profilestore verify` say the same.
What must have happened at least once, such as a kill in the middle of an import, is left to chance: where it has not happened,
more rounds are made.
With --damage snapshots are made all the time, and after some kills sled's files are damaged as well: the server must build
its state anew, and nothing that was acknowledged may be missing.
"""

import argparse
import random
import shutil
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from batch_oracle import BatchWriter
from checks import Checks
from kill_import import Import
from kill_oracle import Writer, spy
from paging import all_domains, all_profiles, ancestors, count, index_order, profiles_of_domain
from server import Server, profiles
from stubs import Profile, service
from whole_store import MARKER, Replay, verify_by_call, verify_without_a_server

WRITERS = 8
LOAD_SECONDS = (0.05, 0.6)
# How often the server is killed once more while it opens its store.
KILL_WHILE_OPENING = 0.2
OPENING_SECONDS = (0.0, 0.06)
# How often an import goes on when the server is killed, and how long after its begin.
KILL_WHILE_IMPORTING = 0.25
IMPORTING_SECONDS = (0.0, 0.3)
# How often the import is killed with the server. Otherwise it waits for the server to come back.
KILL_IMPORT_TOO = 0.5
# How often the server is killed when it has been told to stop, and how long after that.
KILL_WHILE_STOPPING = 0.25
STOPPING_SECONDS = (0.0, 0.05)
# How often sled's files are damaged after a kill, with --damage.
DAMAGE = 0.4
REBUILT = "state was built anew, whole"
MANY_SNAPSHOTS = "[store]\nsnapshot_after_bytes = 1048576\n"
# Of so many rounds on, imports and shutdowns must have been killed.
ROUNDS_FOR_ALL = 50
# How many times the rounds that were asked for are made at most, when something has not happened yet.
MOST_ROUNDS = 4


class Figures:
    """What happened, for the last line."""

    def __init__(self) -> None:
        self.kills_while_opening = 0
        self.kills_while_importing = 0
        self.kills_while_stopping = 0
        self.stopped_before_the_kill = 0
        self.imports = 0
        self.import_attempts = 0
        self.acknowledged = 0
        self.in_flight_made = 0
        self.in_flight_not_made = 0
        self.damaged = 0

    def lacking(self, given: argparse.Namespace, batches: BatchWriter, log: str) -> list[str]:
        """What has not happened yet of all that must."""
        happened = {
            "a write was acknowledged in each round": self.acknowledged > given.rounds,
            "a batch was written in every second round": batches.acknowledged > given.rounds / 2,
            "a batch was refused": batches.refused > 0,
        }
        if given.damage:
            happened |= {"a state was built anew": REBUILT in log, "a snapshot was made": "made a snapshot" in log}
        if given.rounds >= ROUNDS_FOR_ALL:
            happened |= {
                "an import was killed": self.kills_while_importing > 0,
                "a shutdown was killed": self.kills_while_stopping > 0,
            }
        return [what for what, has in happened.items() if not has]


def kill(server: Server, running: Import | None, chance: random.Random, figures: Figures) -> None:
    """Kills the server at once, or some time after it was told to stop."""
    if running:
        figures.kills_while_importing += running.is_under_way()
    if chance.random() < KILL_WHILE_STOPPING:
        met = server.kill_while_stopping(chance.uniform(*STOPPING_SECONDS))
        figures.kills_while_stopping += met
        figures.stopped_before_the_kill += not met
    else:
        server.kill()
    if running and chance.random() < KILL_IMPORT_TOO:
        running.stop()


def load_until_killed(
    server: Server,
    writers: list[Writer],
    batches: BatchWriter,
    running: Import | None,
    chance: random.Random,
    figures: Figures,
) -> None:
    """Lets all writers write for a random time and kills the server in the middle of it."""
    stop = threading.Event()
    channels = [server.channel() for _ in range(3)]
    clients = [profiles(channel) for channel in channels]
    threads = [
        threading.Thread(target=writer.run, args=(clients[index % 2], stop))
        for index, writer in enumerate(writers)
    ]
    threads.append(threading.Thread(target=batches.run, args=(clients[2], stop)))
    threads.append(threading.Thread(target=spy, args=(clients[2], writers, chance.randrange(2**32), stop)))
    for thread in threads:
        thread.start()
    # The one thing to wait for here is time itself.
    if running:
        running.begin(server)
        time.sleep(chance.uniform(*IMPORTING_SECONDS))
    else:
        time.sleep(chance.uniform(*LOAD_SECONDS))
    kill(server, running, chance, figures)
    stop.set()
    for thread in threads:
        thread.join()
    for channel in channels:
        channel.close()


def restart(server: Server, chance: random.Random, figures: Figures) -> None:
    """Starts the server again; sometimes kills it first while it opens its store."""
    while chance.random() < KILL_WHILE_OPENING:
        server.spawn()
        time.sleep(chance.uniform(*OPENING_SECONDS))
        server.kill()
        figures.kills_while_opening += 1
    server.start()


def damage_state(server: Server, chance: random.Random) -> None:
    """Makes sled's file wrong somewhere: a flipped bit, noise, zeros, or a missing end."""
    path = server.data_dir / "sled" / "db"
    content = bytearray(path.read_bytes())
    used = len(content.rstrip(b"\0"))
    at = chance.randrange(max(1, used))
    what = chance.choice(["bit", "noise", "zeros", "end"])
    if what == "bit":
        content[at] ^= 1 << chance.randrange(8)
    elif what == "end":
        del content[at:]
    else:
        end = min(len(content), at + chance.randrange(1, 16384))
        content[at:end] = chance.randbytes(end - at) if what == "noise" else bytes(end - at)
    path.write_bytes(content)


def check_writers(
    checks: Checks, writers: list[Writer], found: dict[str, Profile], figures: Figures, when: str
) -> None:
    """Every acknowledged write is there, and each unacknowledged one wholly or not at all."""
    for writer in writers:
        made = writer.settle(found)
        figures.in_flight_made += made is True
        figures.in_flight_not_made += made is False
        checks.that(not writer.problems, f"{when}: {'; '.join(writer.problems)}")
        writer.problems.clear()
    known = {profile_id for writer in writers for profile_id in writer.stored}
    checks.that(set(found) == known, f"{when}: no profile that nobody wrote")


def check_index(
    checks: Checks, client: service.ProfileServiceStub, records: list[Profile], page_size: int, when: str
) -> None:
    """Index = records = counters."""
    ids = [record.id for record in records]
    checks.that(ids == sorted(set(ids)), f"{when}: the list is in order, each profile once")
    checks.equal(count(client), len(records), f"{when}: count of all")
    per_domain = Counter(record.domain for record in records if record.domain)
    expected = sorted(per_domain.items(), key=lambda entry: index_order(entry[0]))
    checks.that(all_domains(client, page_size=page_size) == expected, f"{when}: the domains and their counts")
    by_id = {record.id: record for record in records}
    every_domain = {above for domain in per_domain for above in ancestors(domain)}
    for domain in sorted(every_domain):
        for subdomains in (False, True):
            wanted = {
                record.id
                for record in records
                if record.domain == domain or (subdomains and record.domain.endswith(f".{domain}"))
            }
            found = profiles_of_domain(client, domain, subdomains, page_size)
            what = f"{when}: {domain}{' and below' if subdomains else ''}"
            checks.equal(len(found), len(wanted), f"{what}: index entries")
            checks.that({profile.id for profile in found} == wanted, f"{what}: the index's ids")
            checks.that(all(profile == by_id[profile.id] for profile in found), f"{what}: the profiles")
            checks.equal(count(client, domain, subdomains), len(wanted), f"{what}: counter")


def main() -> None:
    """Rounds of load, kill, restart and check."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("rounds", type=int, nargs="?", default=50)
    arguments.add_argument("seed", type=int, nargs="?", default=random.randrange(2**32))
    arguments.add_argument("--damage", action="store_true")
    given = arguments.parse_args()
    rounds, seed = given.rounds, given.seed
    print(f"seed {seed}", flush=True)
    chance = random.Random(seed)
    checks = Checks("kill_check" + (" --damage" if given.damage else ""))
    figures = Figures()
    started = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="profilestore-imports-"))
    with Server(config=MANY_SNAPSHOTS if given.damage else None) as server:
        writers = [Writer(number, seed) for number in range(WRITERS)]
        batches, replay = BatchWriter(seed), Replay()
        number, lacking = 0, ["everything"]
        while number < rounds or (lacking and number < MOST_ROUNDS * rounds):
            number += 1
            running = Import(folder, number, seed) if chance.random() < KILL_WHILE_IMPORTING else None
            load_until_killed(server, writers, batches, running, chance, figures)
            if given.damage and chance.random() < DAMAGE:
                damage_state(server, chance)
                figures.damaged += 1
            restart(server, chance, figures)
            with server.channel() as channel:
                client = profiles(channel)
                if running:
                    figures.imports += 1
                    figures.import_attempts += running.finish(server, checks, f"round {number}")
                    running.check_and_delete(client, checks, f"round {number}")
                when = f"round {number}"
                page_size = chance.choice([7, 50, 1000])
                records = all_profiles(client, page_size)
                found = {record.id: record for record in records}
                batches.settle(found, checks, when)
                own = {key: value for key, value in found.items() if not batches.owns(key) and key != MARKER}
                check_writers(checks, writers, own, figures, when)
                check_index(checks, client, records, page_size, when)
                verify_by_call(checks, channel, len(records), when)
                replay.check(checks, server, records, when)
            figures.acknowledged = sum(writer.acknowledged for writer in writers)
            if number >= rounds:
                lacking = figures.lacking(given, batches, server.log())
            if number % 10 == 0:
                checks.section(f"{number} rounds, {len(records)} profiles, {checks.failed} failures")
        checks.equal(lacking, [], f"what has not happened in {number} rounds")
        Replay().check(checks, server, records, "the whole log at the end")
        checks.equal(server.stop(), 0, "exit code after SIGTERM")
        verify_without_a_server(checks, server.data_dir, "after the orderly stop")
        rebuilt = server.log().count(REBUILT)
        snapshots = server.log().count("made a snapshot")
    if given.damage:
        print(f"{figures.damaged} times damaged, {rebuilt} states built anew, {snapshots} snapshots")
    shutil.rmtree(folder, ignore_errors=True)
    print(
        f"{figures.kills_while_importing} kills in the middle of {figures.imports} imports, which "
        f"{figures.import_attempts} more commands finished; {figures.kills_while_stopping} while the server shut down, "
        f"{figures.stopped_before_the_kill} when it had"
    )
    print(
        f"{batches.acknowledged} batches whole, {batches.refused} refused as a whole; "
        f"{number} times verified, and {replay.changes()} changes of the log replayed against the list"
    )
    print(
        f"{number} kills under load, {figures.kills_while_opening} while opening; "
        f"{figures.acknowledged} acknowledged writes; "
        f"{figures.in_flight_made} unacknowledged ones made, {figures.in_flight_not_made} not; "
        f"{checks.failed} failures; {(time.monotonic() - started) / number:.2f} s a round"
    )
    checks.finish()


if __name__ == "__main__":
    main()
