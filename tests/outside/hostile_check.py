"""Well-behaved clients beside hostile ones, against the release build.

While some clients make hot gets at a fixed, modest rate, and others connect anew and ask once, hostile ones flood, reset, hold
connections half open, stop reading, and send garbage, giant messages and endless headers. Every good call must be
answered, the server must not end, and its memory must stay within its bounds. How long the good calls wait is printed, not
asserted: attackers, clients and server share the machine. The attackers are nice, so that they take what time is left, as those of
other machines would take none: then what good clients wait for is what the server does for the attackers. The last lines
are a table of all attacks, each with its verdict: whether the 99th percentile is within three times that of a quiet server, which
is the middle one of three, before, between and after the attacks.

Usage: hostile_check.py [SECONDS] [--attack NAME]
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import grpc

from checks import Checks
from hostile_attacks import ATTACKS
from server import Server, clean_environment, profiles, release_binary
from serving_check import load_large
from stubs import pb

SAMPLE = 20_000
RATE = 300
ATTACKERS = 2
NEW_CONNECTION_SECONDS = 0.2
MIB = 1024 * 1024
SETTINGS = f"""
[limits]
request_bytes_in_flight = {64 * MIB}
answer_bytes_held = {64 * MIB}
[cache]
max_bytes = {64 * MIB}
[store]
queued_bytes = {16 * MIB}
"""
# What the server may take under attack: what it has with its profiles, requests, queue and caches at their bounds, and a
# MiB of flow control for each of a hundred connections.
MAX_BYTES = 600 * MIB
FLOOD = "a flood of calls"
# Of the attackers: a tenth of the share that good clients and the server have where all want the same core.
NICE = ["nice", "-n", "10"]
# How much longer than beside nobody good calls may wait.
BAR = 3.0
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]


@dataclass
class Row:
    """What the good clients met beside an attack."""

    attack: str | None
    p50_ms: float
    p99_ms: float
    largest_bytes: int
    # What the attackers came to.
    made: str


class NewClients(threading.Thread):
    """Connects, asks once, goes, again and again."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self._server = server
        self._stopped = threading.Event()
        self.answered = 0
        self.failures: list[str] = []

    def run(self) -> None:
        """Until it is told to stop."""
        while not self._stopped.wait(NEW_CONNECTION_SECONDS):
            # With gRPC's own patience: where very many connect, it may take a while.
            with grpc.insecure_channel(self._server.address, OWN_CONNECTION) as channel:
                request = pb.GetProfileRequest(id=f"user-{random.randrange(SAMPLE):08}")
                try:
                    profiles(channel).GetProfile(request, timeout=30.0)
                    self.answered += 1
                except grpc.RpcError as error:
                    self.failures.append(str(error.code()))

    def stop(self) -> None:
        """Ends it."""
        self._stopped.set()
        self.join()


def load(server: Server, *arguments: str, nice: bool = False) -> subprocess.Popen[str]:
    """The program's own load generator."""
    return subprocess.Popen(
        [*(NICE if nice else []), str(release_binary()), "load", "--json", "--keys", str(SAMPLE), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=clean_environment({"PROFILESTORE_ADDR": server.address}),
    )


def begin(server: Server, attack: str, seconds: float) -> list[subprocess.Popen[str]]:
    """The attackers of an attack."""
    if attack == FLOOD:
        mix = "get=60,batch=20,query=10,put=10"
        flood = ["--concurrency", "2000", "--connections", "64", "--mix", mix, "--writes", "--threads", "1"]
        return [load(server, "--duration", f"{seconds}s", *flood, nice=True)]
    command = [*NICE, sys.executable, str(Path(__file__).with_name("hostile_attacks.py")), attack, server.address, str(seconds)]
    return [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(ATTACKERS)]


def largest_size(server: Server, good: subprocess.Popen[str]) -> int:
    """The largest resident size while the good clients run."""
    largest = 0
    while good.poll() is None:
        largest = max(largest, server.resident_bytes())
        time.sleep(0.05)
    return largest


def check(checks: Checks, server: Server, attack: str | None, seconds: float) -> Row:
    """Good clients, beside an attack or alone."""
    what = attack or "nobody"
    new_clients = NewClients(server)
    # The attack begins before and ends after what is measured.
    attackers = begin(server, attack, seconds + 2.0) if attack else []
    time.sleep(1.0 if attack else 0.0)
    new_clients.start()
    good = load(server, "--rate", str(RATE), "--duration", f"{seconds}s", "--concurrency", "4096", "--timeout", "30s")
    largest = largest_size(server, good)
    new_clients.stop()
    said = json.loads(good.communicate()[0])
    sent = []
    flooded = 0
    for attacker in attackers:
        output = json.loads(attacker.communicate(timeout=180)[0])
        if attack == FLOOD:
            flooded = output["all"]["requests"] + output["all"]["errors"]
            checks.that(flooded > RATE * seconds, f"{what}: {flooded} calls")
        else:
            sent.append(output)
    everything, open_loop = said["all"], said["openLoop"]
    checks.equal(everything["errors"], 0, f"{what}: calls of good clients that failed ({everything['errorsByCode']})")
    checks.equal((open_loop["notBegun"], everything["requests"]), (0, open_loop["due"]), f"{what}: calls not made, made")
    checks.equal(new_clients.failures, [], f"{what}: good clients that connected anew and failed")
    checks.that(new_clients.answered > 0, f"{what}: clients connected anew")
    checks.that(largest < MAX_BYTES, f"{what}: the server took {largest // MIB} MiB; its bound is {MAX_BYTES // MIB}")
    took = everything["latencyMicros"]
    made = f"; {sum(each['connections'] for each in sent)} connections, {sum(each['bytes'] for each in sent) // MIB} MiB sent"
    made = f"; {flooded} calls of the flood" if flooded else made if sent else ""
    print(
        f"{what}: p50 {took['p50'] / 1000:.1f} ms, p99 {took['p99'] / 1000:.1f} ms of {everything['requests']} gets, "
        f"{new_clients.answered} new connections; at most {largest / MIB:.0f} MiB{made}",
        flush=True,
    )
    return Row(attack, took["p50"] / 1000, took["p99"] / 1000, largest, made.removeprefix("; "))


def show(rows: list[Row]) -> None:
    """All attacks, each against a quiet server."""
    quiet = sorted(row.p99_ms for row in rows if row.attack is None)
    alone = quiet[len(quiet) // 2]
    print(f"p99 of the quiet server: {', '.join(f'{each:.1f}' for each in quiet)} ms; the bar is {BAR * alone:.1f} ms")
    print("| attack | p50 | p99 | of the quiet one's | within 3 | server's memory | |\n|---|---|---|---|---|---|---|")
    met = 0
    attacks = [row for row in rows if row.attack]
    for row in attacks:
        holds = row.p99_ms <= BAR * alone
        met += holds
        print(
            f"| {row.attack} | {row.p50_ms:.1f} ms | {row.p99_ms:.1f} ms | {row.p99_ms / alone:.1f} | "
            f"{'met' if holds else 'missed'} | {row.largest_bytes / MIB:.0f} MiB | {row.made} |"
        )
    print(f"{met} of {len(attacks)} attacks are within {BAR:.0f} times", flush=True)


def main() -> None:
    """Every attack on one server, and the server alone before and after."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("seconds", type=float, nargs="?", default=3.0)
    arguments.add_argument("--attack", choices=[FLOOD, *ATTACKS])
    given = arguments.parse_args()
    checks = Checks("hostile_check")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    rows: list[Row] = []
    with Server("--sample", str(SAMPLE), config=SETTINGS) as server:
        # Answers of megabytes, for those who do not read them.
        load_large(server)
        attacks = [given.attack] if given.attack else [FLOOD, *ATTACKS]
        half = len(attacks) // 2
        for attack in [None, *attacks[:half], None, *attacks[half:], None]:
            rows.append(check(checks, server, attack, given.seconds))
        checks.equal(server.log().count("panicked"), 0, "panics in the log")
        checks.equal(server.stop(), 0, "exit code after SIGTERM")
    show(rows)
    checks.finish()


if __name__ == "__main__":
    main()
