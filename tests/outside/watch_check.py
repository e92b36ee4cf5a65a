"""Watchers with resume across kill -9 of the server under load: each sees every acknowledged change in order,
exactly once after repeats are dropped by position. Two of them, one of everything and one of a domain, cut their own streams
at random, and one is
`profilestore watch` with a token file, which is killed at random itself.

Usage: watch_check.py [ROUNDS] [SEED]
"""

import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from checks import Checks, eventually
from kill_oracle import Writer
from paging import all_profiles
from server import Server, profiles, release_binary
from stubs import Profile, pb, service

WRITERS = 6
LOAD_SECONDS = (0.1, 0.6)
CATCH_UP_SECONDS = 180.0
DOMAIN = "example.com"
# How often, of all responses, a watcher cuts the stream itself.
CUT = 0.05


@dataclass
class Belief:
    """What a watcher was sent, without the repeats."""

    request: pb.WatchProfilesRequest
    token: str = ""
    current: bool = False
    repeats: int = 0
    breaks: int = 0
    problems: list[str] = field(default_factory=list)
    profiles: dict[str, Profile] = field(default_factory=dict)
    positions: set[str] = field(default_factory=set)
    # The etags that each profile had, in order; an empty one for a delete.
    etags: dict[str, list[str]] = field(default_factory=dict)

    def next_request(self) -> pb.WatchProfilesRequest:
        """Goes on after the last token, if there is one."""
        request = pb.WatchProfilesRequest()
        request.CopyFrom(self.request)
        if self.token:
            request.include_snapshot = False
            request.resume_token = self.token
        return request

    def take(self, response: pb.WatchProfilesResponse) -> None:
        """Notes a response."""
        for event in response.events:
            if event.position in self.positions:
                self.repeats += 1
                continue
            self.positions.add(event.position)
            put = event.type == pb.PROFILE_EVENT_TYPE_PUT
            if put:
                self.profiles[event.id] = Profile.FromString(event.profile.SerializeToString())
            else:
                self.profiles.pop(event.id, None)
            self.etags.setdefault(event.id, []).append(event.profile.etag if put else "")
        self.current |= response.current
        self.token = response.resume_token


class Watcher(threading.Thread):
    """Watches until told to stop; a break is followed by another watch with the last token."""

    def __init__(
        self, server: Server, belief: Belief, stop: threading.Event, cut: float = 0.0, chance: random.Random | None = None
    ) -> None:
        super().__init__()
        self._server = server
        self._stopped = stop
        self._cut = cut
        self._chance = chance or random.Random(0)
        self.belief = belief
        # Whether it is to cut its stream as soon as something comes, whatever chance says.
        self.cut_soon = False
        self.cuts = 0

    def run(self) -> None:
        """Watches over all breaks."""
        while not self._stopped.is_set():
            try:
                with self._server.channel() as channel:
                    for response in profiles(channel).WatchProfiles(self.belief.next_request()):
                        self.belief.take(response)
                        if self._stopped.is_set():
                            return
                        if self.cut_soon or self._chance.random() < self._cut:
                            # With the channel, in the middle of what the server sends.
                            self.cut_soon = False
                            self.cuts += 1
                            break
            except grpc.RpcError as error:
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                    self.belief.problems.append(f"{error.code()}: {error.details()}")
                    return
            self.belief.breaks += 1
            time.sleep(0.01)


class Command(threading.Thread):
    """`profilestore watch` with a token file, killed at random and run again; and what all of its runs printed."""

    def __init__(self, server: Server, belief: Belief, stop: threading.Event, chance: random.Random) -> None:
        super().__init__()
        self._server = server
        self._stopped = stop
        self._chance = chance
        self.belief = belief
        self.kills = 0

    def run(self) -> None:
        """Runs it until told to stop."""
        with tempfile.TemporaryDirectory() as folder:
            command = [str(release_binary()), "watch", "--from", "oldest", "--token-file", f"{folder}/place"]
            command += ["--addr", self._server.address]
            while not self._stopped.is_set():
                with open(f"{folder}/out", "wb") as out, open(f"{folder}/errors", "wb") as errors:
                    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=errors)
                    ended = self._wait(process)
                if ended:
                    self.belief.problems.append(Path(f"{folder}/errors").read_text()[-500:])
                    return
                self._take(Path(f"{folder}/out").read_bytes())

    def _wait(self, process: subprocess.Popen[bytes]) -> bool:
        """Kills it after a random time; says whether it ended by itself."""
        try:
            process.wait(self._chance.uniform(1.0, 3.0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            self.kills += 1
            return False
        return True

    def _take(self, printed: bytes) -> None:
        """Notes the lines of one run; the last one may have been cut."""
        for line in printed.split(b"\n")[:-1]:
            event = json.loads(line)
            if event["position"] in self.belief.positions:
                self.belief.repeats += 1
                continue
            self.belief.positions.add(event["position"])
            profile = event.get("profile")
            etag = profile["etag"] if event["type"] == "PUT" else ""
            self.belief.etags.setdefault(event["id"], []).append(etag)
            if etag:
                self.belief.profiles[event["id"]] = Profile(id=event["id"], etag=etag)
            else:
                self.belief.profiles.pop(event["id"], None)


class NotingWriter(Writer):
    """A writer that also notes every acknowledged version of its profiles, in order; empty for a delete."""

    def __init__(self, number: int, seed: int) -> None:
        super().__init__(number, seed)
        self.history: list[tuple[str, str]] = []

    def _write_once(self, client: service.ProfileServiceStub) -> None:
        super()._write_once(client)
        profile_id = self.last_id
        now = self.stored.get(profile_id)
        self.history.append((profile_id, now.etag if now else ""))

    def _begin(self, profile_id: str, before: Profile | None, after: Profile | None) -> None:
        self.last_id = profile_id
        super()._begin(profile_id, before, after)


def load_until_killed(server: Server, writers: list[NotingWriter], chance: random.Random) -> None:
    """Lets all writers write for a random time and kills the server in the middle of it."""
    stop = threading.Event()
    with server.channel() as one, server.channel() as other:
        clients = [profiles(one), profiles(other)]
        threads = [
            threading.Thread(target=writer.run, args=(clients[index % 2], stop))
            for index, writer in enumerate(writers)
        ]
        for thread in threads:
            thread.start()
        # The one thing to wait for here is time itself.
        time.sleep(chance.uniform(*LOAD_SECONDS))
        server.kill()
        stop.set()
        for thread in threads:
            thread.join()


def is_in_order(wanted: list[str], found: list[str]) -> bool:
    """Whether all that is wanted was found in this order; writes that nobody heard of may be between."""
    rest = iter(found)
    return all(any(each == other for other in rest) for each in wanted)


def check_watcher(
    checks: Checks, belief: Belief, writers: list[NotingWriter], found: dict[str, Profile], name: str
) -> None:
    """What the watcher was sent is every acknowledged write in order, and comes to what the server has."""
    checks.equal(belief.problems, [], f"{name}: problems")
    filtered = bool(belief.request.domain)
    wanted = {
        profile_id: profile
        for profile_id, profile in found.items()
        if not filtered or profile.domain == DOMAIN or profile.domain.endswith(f".{DOMAIN}")
    }
    checks.that(belief.profiles == wanted, f"{name}: the events come to what the server has")
    versions = [etag for etags in belief.etags.values() for etag in etags if etag]
    checks.equal(len(versions), len(set(versions)), f"{name}: each version comes once, without the repeats")
    if filtered:
        return
    missed = 0
    for writer in writers:
        per_profile: dict[str, list[str]] = {}
        for profile_id, etag in writer.history:
            per_profile.setdefault(profile_id, []).append(etag)
        for profile_id, etags in per_profile.items():
            missed += not is_in_order(etags, belief.etags.get(profile_id, []))
    checks.equal(missed, 0, f"{name}: profiles with an acknowledged change missed or out of order")


def wait_for(server: Server, beliefs: list[Belief]) -> None:
    """One more write in the domain, last of all; whoever has it has everything."""
    with server.channel() as channel:
        last = Profile(id="last", email=f"last@{DOMAIN}")
        profiles(channel).CreateProfile(pb.CreateProfileRequest(profile=last), timeout=30.0)
    deadline = time.monotonic() + CATCH_UP_SECONDS
    while not all("last" in belief.profiles or belief.problems for belief in beliefs):
        if time.monotonic() > deadline:
            return
        time.sleep(0.01)


def main() -> None:
    """Rounds of load and kill, then the check of every watcher."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(2**32)
    print(f"seed {seed}", flush=True)
    chance = random.Random(seed)
    checks = Checks("watch_check")
    oldest = pb.WatchProfilesRequest(start_at=pb.WATCH_START_OLDEST)
    in_domain = pb.WatchProfilesRequest(
        start_at=pb.WATCH_START_NOW, domain=DOMAIN, include_subdomains=True, include_snapshot=True
    )
    with Server() as server:
        stop = threading.Event()
        writers = [NotingWriter(number, seed) for number in range(WRITERS)]
        beliefs = [Belief(oldest), Belief(oldest), Belief(in_domain), Belief(oldest)]
        watchers = [Watcher(server, beliefs[0], stop)]
        cutting = [Watcher(server, belief, stop, CUT, random.Random(seed)) for belief in beliefs[1:3]]
        command = Command(server, beliefs[3], stop, random.Random(seed))
        threads = [*watchers, *cutting, command]
        for thread in threads:
            thread.start()
        try:
            for number in range(1, rounds + 1):
                for each in cutting:
                    # How much comes in one message, and so how often chance cuts, hangs on how quick the disk is.
                    each.cut_soon = True
                load_until_killed(server, writers, chance)
                server.start()
                with server.channel() as channel:
                    found = {profile.id: profile for profile in all_profiles(profiles(channel), 1000)}
                for writer in writers:
                    before = dict(writer.stored)
                    if writer.settle(found) and writer.last_id in before.keys() | found.keys():
                        now = found.get(writer.last_id)
                        writer.history.append((writer.last_id, now.etag if now else ""))
                    checks.equal(writer.problems, [], f"round {number}: problems of a writer")
                if number % 10 == 0:
                    checks.section(f"{number} rounds, {checks.failed} failures")
            wait_for(server, beliefs)
            killed = eventually(lambda: command.kills >= rounds / 10 or bool(command.belief.problems))
            with server.channel() as channel:
                found = {profile.id: profile for profile in all_profiles(profiles(channel), 1000)}
        finally:
            stop.set()
            code = server.stop()
            for thread in threads:
                thread.join()
        checks.equal(code, 0, "exit code after SIGTERM, with watchers")
        for number, belief in enumerate(beliefs[:3]):
            check_watcher(checks, belief, writers, found, f"watcher {number}")
        etags = {profile_id: Profile(id=profile_id, etag=profile.etag) for profile_id, profile in found.items()}
        check_watcher(checks, beliefs[3], writers, etags, "the command")
        checks.that(all(each.cuts >= rounds / 2 for each in cutting), "two watchers cut their own streams")
        checks.that(killed, f"the command was killed {command.kills} times")
        checks.that(beliefs[2].current, "the snapshot came to its end")
        checks.that(all(belief.breaks >= rounds / 2 for belief in beliefs[:3]), "the watchers were cut off")
    acknowledged = sum(writer.acknowledged for writer in writers)
    checks.that(acknowledged > rounds * WRITERS, "the load wrote something")
    print(
        f"{rounds} kills; {acknowledged} acknowledged writes; "
        f"{[len(belief.positions) for belief in beliefs]} events, "
        f"{[belief.repeats for belief in beliefs]} repeats, {[belief.breaks for belief in beliefs]} breaks"
    )
    checks.finish()


if __name__ == "__main__":
    main()
