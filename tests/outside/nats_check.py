"""The publisher against a real nats-server: kill -9 of broker and server in turn under load, and what delays publishing.

Usage: nats_check.py [ROUNDS] [SEED]

At the end of the rounds the stream holds every change of the store exactly once, in order for each profile, and nothing
else; every acknowledged write is one of them.
"""

import random
import sys
import threading
import time

from google.protobuf import json_format

from checks import Checks, eventually
from nats_broker import Broker, Message
from nats_delays import check_delays
from nats_workers_check import check_workers
from server import Server, profiles
from stubs import Profile, pb
from paging import all_profiles
from watch_check import NotingWriter, is_in_order

WRITERS = 6
LOAD_SECONDS = (0.1, 0.4)
CATCH_UP_SECONDS = 180.0
STREAM = "PROFILES"
WHOLE = "[publish]\ninclude_profile = true\n"


def all_changes(server: Server, last: str) -> list[pb.ProfileEvent]:
    """Every change of the store, from the oldest to the profile that was made last of all."""
    events: list[pb.ProfileEvent] = []
    with server.channel() as channel:
        request = pb.WatchProfilesRequest(start_at=pb.WATCH_START_OLDEST)
        for response in profiles(channel).WatchProfiles(request, timeout=60.0):
            events.extend(response.events)
            if events and events[-1].id == last:
                break
    return events


def expected_messages(changes: list[pb.ProfileEvent]) -> list[tuple[str, str, str, str]]:
    """The subject, the event's id, the profile and the etag of every message that the changes make, in order."""
    domains: dict[str, str] = {}
    expected = []
    for change in changes:
        put = change.type == pb.PROFILE_EVENT_TYPE_PUT
        before, now = domains.get(change.id, ""), change.profile.domain if put else ""
        if put and before and before != now:
            expected.append((f"profiles.left.{reversed_labels(before)}", f"{change.position}-left", change.id, ""))
        kind, domain = ("put", now) if put else ("delete", before)
        subject = f"profiles.{kind}.{reversed_labels(domain)}"
        expected.append((subject, change.position, change.id, change.profile.etag))
        domains[change.id] = now
    return expected


def reversed_labels(domain: str) -> str:
    """The end of a subject."""
    return ".".join(reversed(domain.split("."))) if domain else "_"


def check_stream(
    checks: Checks, messages: list[Message], changes: list[pb.ProfileEvent], writers: list[NotingWriter]
) -> None:
    """The stream is the changes, and the changes have every acknowledged write."""
    expected = expected_messages(changes)
    found = [(each.subject, each.id, each.event["subject"], each.event["data"].get("etag", "")) for each in messages]
    ids = [message.id for message in messages]
    checks.equal(len(ids) - len(set(ids)), 0, "messages that came twice into the stream")
    checks.equal(len(set(expected) - set(found)), 0, "messages that are missing in the stream")
    checks.equal(len(set(found) - set(expected)), 0, "messages of what never happened")
    by_profile = lambda rows: {row[2]: [each for each in rows if each[2] == row[2]] for row in rows}  # noqa: E731
    wanted, ordered = by_profile(expected), by_profile(found)
    wrong = [profile_id for profile_id in wanted if wanted[profile_id] != ordered.get(profile_id)]
    checks.equal(len(wrong), 0, "profiles whose messages are not in order")
    checks.that(all(message.headers["Nats-Msg-Id"] == message.id for message in messages), "the ids of messages")
    sequences: dict[str, list[str]] = {}
    for message in messages:
        sequences.setdefault(message.event["subject"], []).append(message.event["sequence"])
    wrong = [each for each, found_of in sequences.items() if found_of != sorted(set(found_of))]
    checks.equal(len(wrong), 0, "profiles whose messages do not have rising sequences")
    checks.that(any(message.kind == "left" for message in messages), "profiles moved to other domains")
    missed = 0
    for writer in writers:
        etags: dict[str, list[str]] = {}
        for profile_id, etag in writer.history:
            etags.setdefault(profile_id, []).append(etag)
        for profile_id, history in etags.items():
            sent = [row[3] for row in ordered.get(profile_id, []) if ".left." not in row[0]]
            missed += not is_in_order(history, sent)
    checks.equal(missed, 0, "profiles with an acknowledged write that is missing or out of order")
    personal = [message for message in messages if set(message.event["data"]) - {"id", "domain", "etag"}]
    checks.equal(len(personal), 0, "messages with more than id, domain and etag")


class Load:
    """All writers, writing over one server's life."""

    def __init__(self, server: Server, writers: list[NotingWriter]) -> None:
        self._stop = threading.Event()
        self._channels = [server.channel(), server.channel()]
        clients = [profiles(channel) for channel in self._channels]
        self._threads = [
            threading.Thread(target=writer.run, args=(clients[index % 2], self._stop))
            for index, writer in enumerate(writers)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends the load; a write under way is finished if the server is there."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for channel in self._channels:
            channel.close()


def settle(checks: Checks, server: Server, writers: list[NotingWriter], number: int) -> None:
    """After a restart: what became of the writes under way."""
    with server.channel() as channel:
        found = {profile.id: profile for profile in all_profiles(profiles(channel), 1000)}
    for writer in writers:
        before = dict(writer.stored)
        if writer.settle(found) and writer.last_id in before.keys() | found.keys():
            now = found.get(writer.last_id)
            writer.history.append((writer.last_id, now.etag if now else ""))
        checks.equal(writer.problems, [], f"round {number}: problems of a writer")


def run_round(
    checks: Checks, server: Server, broker: Broker, writers: list[NotingWriter], chance: random.Random, number: int
) -> None:
    """Load, and in the middle of it the end of the broker, of the server, or of the server in good order."""
    load = Load(server, writers)
    # The one thing to wait for here is time itself.
    time.sleep(chance.uniform(*LOAD_SECONDS))
    if number % 3 == 0:
        broker.kill()
        before = sum(writer.acknowledged for writer in writers)
        time.sleep(chance.uniform(*LOAD_SECONDS))
        load.stop()
        acknowledged = sum(writer.acknowledged for writer in writers) - before
        checks.that(acknowledged > 0, f"round {number}: writes go on without the broker")
        broker.start()
        return
    if number % 3 == 1:
        server.kill()
        load.stop()
    else:
        load.stop()
        checks.equal(server.stop(), 0, f"round {number}: exit code after SIGTERM")
    server.start()
    settle(checks, server, writers, number)


def check_kills(checks: Checks, rounds: int, seed: int) -> None:
    """Rounds of load with kills, and then the whole stream against the whole store."""
    chance = random.Random(seed)
    writers = [NotingWriter(number, seed) for number in range(WRITERS)]
    with Broker() as broker, Server("--publish", broker.url, "--publish-stream", STREAM) as server:
        for number in range(rounds):
            run_round(checks, server, broker, writers, chance, number)
            if (number + 1) % 10 == 0:
                checks.section(f"{number + 1} rounds, {checks.failed} failures")
        with server.channel() as channel:
            last = Profile(id="last", email="last@example.com")
            profiles(channel).CreateProfile(
                pb.CreateProfileRequest(profile=last), timeout=30.0, wait_for_ready=True
            )
        changes = all_changes(server, "last")
        wanted = len(expected_messages(changes))
        deadline = time.monotonic() + CATCH_UP_SECONDS
        while broker.count(STREAM) < wanted and time.monotonic() < deadline:
            time.sleep(0.05)
        messages = broker.messages(STREAM)
        check_stream(checks, messages, changes, writers)
        checks.equal(server.stop(), 0, "exit code after SIGTERM")
        kills = server.kills, broker.kills
    acknowledged = sum(writer.acknowledged for writer in writers)
    checks.that(acknowledged > rounds * WRITERS, "the load wrote something")
    print(
        f"{rounds} rounds, {kills[0]} kills of the server and {kills[1]} of the broker; {acknowledged} acknowledged "
        f"writes, {len(changes)} changes, {len(messages)} messages"
    )


def check_whole_profiles(checks: Checks) -> None:
    """With the setting a put has the whole profile, and a delete still nothing of it."""
    broker_and_stream = ("--publish-stream", STREAM)
    with Broker() as broker, Server("--publish", broker.url, *broker_and_stream, config=WHOLE) as server:
        with server.channel() as channel:
            client = profiles(channel)
            profile = Profile(id="whole", email="Whole@Example.com", display_name="W. Hole", attributes={"plan": "pro"})
            made = client.CreateProfile(pb.CreateProfileRequest(profile=profile), timeout=30.0)
            client.DeleteProfile(pb.DeleteProfileRequest(id="whole"), timeout=30.0)
        checks.that(eventually(lambda: broker.count(STREAM) == 2), "a put and a delete are published")
        put, delete = broker.messages(STREAM)
        found = json_format.ParseDict(put.event["data"]["profile"], Profile())
        checks.that(found == made, "the put has the profile as its creator was given it")
        checks.that(not set(delete.event["data"]) - {"id", "domain", "etag"}, "the delete has nothing of it")
        checks.equal(server.stop(), 0, "exit code after SIGTERM")


def main() -> None:
    """The kills, what delays publishing, and the group of workers."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(2**32)
    print(f"seed {seed}", flush=True)
    checks = Checks("nats_check")
    check_kills(checks, rounds, seed)
    checks.section("kills")
    check_whole_profiles(checks)
    checks.section("whole profiles")
    check_delays(checks)
    check_workers(checks)
    checks.finish()


if __name__ == "__main__":
    main()
