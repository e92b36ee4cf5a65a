"""What delays publishing and nothing else: a broker that is away, slow, full, without JetStream, without a stream or with
other credentials; and the bound on the log that is held meanwhile."""

import json
import subprocess
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from checks import Checks, whole_lines
from checks import eventually as eventually_within
from nats_broker import Broker
from server import Server, profiles
from stubs import REPOSITORY, Profile, admin_pb, admin_service, pb

# A snapshot that failed under load is tried again after half a minute.
SECONDS = 90.0
eventually = partial(eventually_within, patience_seconds=SECONDS)
PASSWORD = "correct-horse-battery"
SHIFTED_CLOCK = REPOSITORY / "tests" / "outside" / "shifted_clock.c"
HOUR = 3600
FULL = "the stream is full or has no room"
# Small segments, and a log of which nothing is kept that nobody holds.
SMALL_LOG = """
[store]
snapshot_after_bytes = 1048576
log_keep_age = "10m"
log_keep_bytes = 0
held_log_bytes = 1048576
"""


def write(server: Server, names: list[str], filler: int = 0) -> None:
    """Creates profiles, many in one call."""
    with server.channel() as channel:
        client = profiles(channel)
        for start in range(0, len(names), 50):
            creates = [
                pb.ProfileWrite(
                    create=pb.CreateProfileRequest(
                        profile=Profile(id=name, email=f"{name}@example.com", attributes={"filler": "x" * filler})
                    )
                )
                for name in names[start : start + 50]
            ]
            client.BatchWriteProfiles(
                pb.BatchWriteProfilesRequest(writes=creates), timeout=30.0, wait_for_ready=True
            )


def back_up(server: Server) -> None:
    """Makes a snapshot, and reads it to its end."""
    with server.channel() as channel:
        backup = admin_service.AdminServiceStub(channel).Backup(admin_pb.BackupRequest(), timeout=300.0)
        for _ in backup:
            pass


def names(prefix: str, count: int) -> list[str]:
    """Ids."""
    return [f"{prefix}-{number}" for number in range(count)]


def lines(server: Server, message: str) -> list[dict[str, Any]]:
    """The fields of all log lines with a message. A thread writes them, so they may come a little later."""
    found = []
    for line in whole_lines(server.log()):
        if line.startswith("{"):
            fields = json.loads(line)["fields"]
            if fields.get("message", "").startswith(message):
                found.append(fields)
    return found


def reasons(server: Server) -> list[str]:
    """Why publishing was delayed, each time that this changed."""
    return [fields["reason"] for fields in lines(server, "publishing is delayed")]


def is_ready(server: Server) -> bool:
    """What the readiness probe says."""
    with urllib.request.urlopen(f"http://{server.admin_address}/readyz", timeout=10) as answer:
        return answer.status == 200


def metric(server: Server, name: str) -> float:
    """A figure of the publisher, as Prometheus would read it."""
    with urllib.request.urlopen(f"http://{server.admin_address}/metrics", timeout=10) as answer:
        lines_of_page = answer.read().decode().splitlines()
    return float(next(line.split()[1] for line in lines_of_page if line.startswith(f"profilestore_publisher_{name} ")))


def hold(server: Server) -> admin_pb.FeedHold:
    """The publisher's place, as GetStatus shows it."""
    with server.channel() as channel:
        status = admin_service.AdminServiceStub(channel).GetStatus(
            admin_pb.GetStatusRequest(), timeout=30.0, wait_for_ready=True
        )
    return next(hold for hold in status.feed.holds if hold.name == "publisher")


def check_away_at_start(checks: Checks) -> None:
    """The server starts, serves and is ready without the broker, and publishes when it comes."""
    broker = Broker()
    with ExitStack() as stack:
        server = stack.enter_context(Server("--publish", broker.url, "--publish-stream", "AWAY"))
        write(server, names("away", 30))
        checks.that(is_ready(server), "away: the server is ready")
        checks.equal(hold(server).lag_count, 30, "away: changes behind")
        # Several attempts are made, and there is one line.
        time.sleep(2.0)
        checks.equal(metric(server, "lag_changes"), 30, "away: changes behind in the metrics")
        checks.that(metric(server, "oldest_unpublished_seconds") >= 1.0, "away: the age of the oldest in the metrics")
        checks.equal(metric(server, "publishing"), 0, "away: the state in the metrics")
        stack.enter_context(broker)
        checks.that(eventually(lambda: broker.count("AWAY") == 30), "away: everything comes when the broker does")
        checks.equal(reasons(server), ["the broker cannot be reached"], "away: lines about the delay")
        # The broker has the messages before the server has its word for it.
        checks.that(eventually(lambda: metric(server, "lag_changes") == 0), "away: nothing is behind any more")
        checks.that(eventually(lambda: metric(server, "publishing") == 1), "away: the state in the metrics after it")
        acknowledged = eventually(lambda: metric(server, "acknowledged_total") == 30)
        checks.that(acknowledged, "away: acknowledged messages in the metrics")
        checks.that(eventually(lambda: bool(lines(server, "changes are published"))), "away: its end is said")
        checks.equal(len(lines(server, "changes are published")), 1, "away: lines about its end")
        broker.pause()
        write(server, names("paused", 5))
        checks.that(is_ready(server), "away: the server is ready while the broker is paused")
        broker.resume()
        checks.that(eventually(lambda: broker.count("AWAY") == 35), "away: everything comes after a pause")
        broker.kill()
        checks.equal(server.stop(), 0, "away: exit code after SIGTERM without the broker")
    checks.section("a broker that is away")


def check_full(checks: Checks) -> None:
    """A stream that is full keeps what it has; what is behind comes in order when it gets room."""
    stream = {"name": "FULL", "subjects": ["profiles.>"], "discard": "new"}
    with Broker() as broker:
        broker.add_stream(**stream, max_msgs=20)
        with Server("--publish", broker.url, "--publish-stream", "FULL") as server:
            write(server, names("full", 100))
            checks.that(eventually(lambda: FULL in reasons(server)), "full: it is said")
            checks.that(is_ready(server), "full: the server is ready")
            checks.equal(broker.count("FULL"), 20, "full: messages in the stream")
            time.sleep(2.0)
            # Room for some in the middle of an attempt.
            broker.update_stream(**stream, max_msgs=55)
            checks.that(eventually(lambda: broker.count("FULL") == 55), "full: what finds room comes")
            broker.update_stream(**stream, max_msgs=-1)
            checks.that(eventually(lambda: broker.count("FULL") == 100), "full: everything comes when there is room")
            ids = [message.event["subject"] for message in broker.messages("FULL")]
            checks.equal(sorted(ids), sorted(names("full", 100)), "full: each once")
            checks.that(len(reasons(server)) <= 4, "full: a line for each change of state and not for each attempt")
            checks.that(eventually(lambda: hold(server).lag_count == 0), "full: the place follows")
    checks.section("a stream that is full")


def check_refusals(checks: Checks) -> None:
    """Each reason is named once, and no secret is."""
    users = f'authorization {{ users = [{{user: "ada", password: "{PASSWORD}"}}] }}\n'
    permissions = '{publish: {deny: ["profiles.>"]}}'
    denied = f'authorization {{ users = [{{user: "ada", password: "{PASSWORD}", permissions: {permissions}}}] }}\n'
    cases = [
        ("no JetStream", False, "", "", [], "the broker has no JetStream, or not for this account"),
        ("no stream", True, "", "", [], "no stream takes these subjects"),
        ("other stream", True, "", "", ["--publish-stream", "OTHER"], "the stream that was named does not take these subjects"),
        ("small stream", True, "", "", [], "a message is larger than the broker takes"),
        ("sealed stream", True, "", "", [], "the broker refuses a message or the stream, error 10109"),
        ("small messages", True, "max_payload: 100\n", "", [], "a message is larger than the broker takes"),
        ("not permitted", True, denied, f"ada:{PASSWORD}@", [], "the broker does not permit these subjects"),
        ("credentials", True, users, f"ada:{PASSWORD}-not@", [], "the broker refuses the credentials, or they cannot be read"),
    ]
    for what, jetstream, config, credentials, arguments, reason in cases:
        with Broker(jetstream, config) as broker:
            if what == "other stream":
                broker.add_stream(name="OTHER", subjects=["others.>"])
            if what == "small stream":
                broker.add_stream(name="SMALL", subjects=["profiles.>"], max_msg_size=100)
            if what == "sealed stream":
                broker.add_stream(name="SEALED", subjects=["profiles.>"])
                broker.update_stream(name="SEALED", subjects=["profiles.>"], sealed=True)
            url = broker.url.replace("//", f"//{credentials}")
            environment = {"PROFILESTORE__PUBLISH__URL": url, "PROFILESTORE__LOG__FILTER": "debug"}
            with Server(*arguments, environment=environment) as server:
                write(server, names("refused", 3))
                checks.that(eventually(lambda: reason in reasons(server)), f"{what}: the reason is said")
                time.sleep(1.0)
                checks.equal(reasons(server), [reason], f"{what}: lines about the delay")
                checks.that(is_ready(server), f"{what}: the server is ready")
                checks.that(PASSWORD not in server.log(), f"{what}: no password in the log")
                checks.that("refused-1" not in server.log(), f"{what}: no id in the log")
                if what == "no stream":
                    broker.add_stream(name="LATE", subjects=["profiles.>"])
                    checks.that(eventually(lambda: broker.count("LATE") == 3), "no stream: all comes when there is one")
                checks.equal(server.stop(), 0, f"{what}: exit code after SIGTERM")
    check_right_credentials(checks, users)
    checks.section("refusals")


def check_right_credentials(checks: Checks, users: str) -> None:
    """With a user and a password messages arrive, and neither is printed."""
    with Broker(True, users) as broker:
        address = broker.url.removeprefix("nats://")
        broker.url = f"nats://ada:{PASSWORD}@{address}"
        environment = {"PROFILESTORE__PUBLISH__URL": broker.url, "PROFILESTORE__LOG__FILTER": "debug"}
        with Server("--publish-stream", "SECRET", environment=environment) as server:
            write(server, names("secret", 3))
            checks.that(eventually(lambda: broker.count("SECRET") == 3), "credentials: messages arrive")
            checks.that(eventually(lambda: bool(lines(server, "changes are published"))), "credentials: it is said")
            published = lines(server, "changes are published")
            checks.equal([fields["broker"] for fields in published], [f"nats://{address}"], "credentials: the broker")
            checks.that(PASSWORD not in server.log(), "credentials: no password in the log")


def check_tls(checks: Checks) -> None:
    """Over TLS with an authority of one's own; without it the reason is said."""
    with tempfile.TemporaryDirectory() as folder:
        key, certificate = f"{folder}/key.pem", f"{folder}/certificate.pem"
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
        command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate]
        # An authority's certificate is not good as a server's: one of each.
        command += ["-addext", "basicConstraints=critical,CA:FALSE"]
        subprocess.run(command, check=True, capture_output=True)
        tls = f'tls {{ cert_file: "{certificate}", key_file: "{key}" }}\n'
        with Broker(True, tls, tls_ca=certificate) as broker:
            trusting = f'[publish]\nstream = "TLS"\nca_file = "{certificate}"\n'
            url = broker.url.replace("nats://", "tls://")
            with Server("--publish", url, "--publish-stream", "TLS") as server:
                write(server, names("tls", 3))
                reason = "there is no TLS connection to the broker: a certificate is missing or not trusted"
                checks.that(eventually(lambda: reason in reasons(server)), "tls: without the authority it is said")
                checks.equal(server.stop(), 0, "tls: exit code after SIGTERM")
                with Server("--publish", url, config=trusting, data_dir=server.data_dir) as second:
                    checks.that(eventually(lambda: broker.count("TLS") == 3), "tls: messages arrive")
                    second.stop()
    checks.section("TLS")


def check_bound(checks: Checks) -> None:
    """Held log has a bound: beyond it the oldest changes go, loudly, and the rest is published."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "shifted_clock.so"
        subprocess.run(
            ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(SHIFTED_CLOCK), "-ldl"], check=True
        )
        broker = Broker()
        arguments = ("--publish", broker.url, "--publish-stream", "BOUND")
        with Server(*arguments, config=SMALL_LOG) as server:
            data_dir = server.data_dir
            write(server, names("lost", 700), filler=4000)
            checks.equal(hold(server).lost_count, 0, "bound: young changes stay")
            checks.equal(server.stop(), 0, "bound: exit code after SIGTERM")
            later = {"LD_PRELOAD": str(library), "SHIFTED_CLOCK": str(HOUR)}
            with Server(*arguments, config=SMALL_LOG, data_dir=data_dir, environment=later) as second:
                write(second, names("more", 700), filler=4000)
                # No segment goes before a snapshot covers it; when one is due by itself hangs on when the last was made.
                back_up(second)
                # The publisher takes note and goes on from the oldest that is kept, so its place shows a loss only for a moment.
                given_up = lambda: lines(second, "held changes have taken more of the disk")
                checks.that(eventually(lambda: bool(given_up())), "bound: the oldest changes go, and the store says so")
                with broker:
                    checks.that(eventually(lambda: hold(second).lag_count == 0), "bound: the rest is published")
                    ids = {message.event["subject"] for message in broker.messages("BOUND")}

                    def lost() -> int:
                        """How many changes the publisher says it has lost."""
                        told = lines(second, "changes are gone that were not published")
                        return sum(fields["lost_changes"] for fields in told)

                    together = eventually(lambda: len(ids) + lost() == 1400)
                    checks.that(together, f"bound: {len(ids)} published and {lost()} lost changes are all")
                    checks.that(lost() > 0, "bound: the publisher says how many are lost")
                    # What the publisher had read before it went is still published.
                    gone = sum(fields["lost_changes"] for fields in given_up())
                    checks.that(lost() <= gone, "bound: not more than the store gave up")
                    checks.that(set(names("more", 700)) <= ids, "bound: what was young is there")
                    checks.equal(second.stop(), 0, "bound: exit code after SIGTERM")
    checks.section("the bound on held log")


def check_forgotten(checks: Checks) -> None:
    """A place that nobody keeps is said at the start, and can be given up."""
    broker = Broker()
    with Server("--publish", broker.url) as server:
        server.stop()
        with Server(data_dir=server.data_dir) as second:
            said = lambda: lines(second, "the log is held for somebody who does not run")  # noqa: E731
            checks.that(eventually(lambda: bool(said())), "forgotten: it is said")
            checks.equal(len(said()), 1, "forgotten: how often it is said")
            checks.equal(hold(second).name, "publisher", "forgotten: the place is still there")
            second.stop()
        with Server("--forget-publisher", data_dir=server.data_dir) as third:
            with third.channel() as channel:
                status = admin_service.AdminServiceStub(channel).GetStatus(
                    admin_pb.GetStatusRequest(), timeout=30.0, wait_for_ready=True
                )
            checks.equal(len(status.feed.holds), 0, "forgotten: places after it was given up")
            third.stop()


def check_delays(checks: Checks) -> None:
    """All of them."""
    check_away_at_start(checks)
    check_full(checks)
    check_refusals(checks)
    check_tls(checks)
    check_bound(checks)
    check_forgotten(checks)
