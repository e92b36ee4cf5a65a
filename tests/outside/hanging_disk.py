"""A disk that hangs, and a log whose reader hangs with it: for disk_check.py.

Syncs of the commit log, and then those of sled, take longer than store.sync_timeout; so do reads, of callers who get profiles, of the
committer for those who put them, and of lists; and so does the disk while the server is stopped. The process must end with 1
each time, and a line must say why. It must also end when nobody takes its lines: when the pipe behind its standard error is
full, and when the reader of that pipe has gone.
"""

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

import grpc

from checks import PATIENCE_SECONDS, Checks, eventually
from filler import Filler, same_profiles
from preload import preloaded
from server import STOP_SECONDS, Server, ServerFailed, profiles
from stubs import Profile, pb, service

SETTINGS = "[store]\nsync_timeout = \"1s\"\n{store}[server]\ndrain_timeout = \"1s\"\n"
SLOW_SETTINGS = SETTINGS.format(store="")
# Nothing of the state is in memory after a start behind a clean close, and little ever.
COLD_SETTINGS = SETTINGS.format(store="check_at_open = \"after-crash\"\nsled_cache_bytes = 1048576\n")
SAMPLE = 10_000


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
        check_end_and_restart(checks, server, switch, filler, about, named)
    except ServerFailed as failure:
        checks.that(False, f"{about}: {failure}")
    finally:
        server.__exit__(None, None, None)


def get_cold(client: service.ProfileServiceStub) -> list[grpc.Future]:
    """Reads of many profiles, which lie all over the state."""
    ids = [f"user-{number:08d}" for number in range(0, SAMPLE, 10)]
    return [client.GetProfile.future(pb.GetProfileRequest(id=id), timeout=PATIENCE_SECONDS) for id in ids]


def put_cold(client: service.ProfileServiceStub) -> list[grpc.Future]:
    """Writes of such profiles."""
    ids = [f"user-{number:08d}" for number in range(0, SAMPLE, 10)]
    requests = [pb.UpdateProfileRequest(profile=Profile(id=id, display_name="new"), allow_missing=True) for id in ids]
    return [client.UpdateProfile.future(request, timeout=PATIENCE_SECONDS) for request in requests]


def list_cold(client: service.ProfileServiceStub) -> list[grpc.Future]:
    """Lists of all profiles, and looks at many."""
    ids = [f"user-{number:08d}" for number in range(0, SAMPLE, 100)]
    many = pb.BatchGetProfilesRequest(ids=ids)
    return [
        client.ListProfiles.future(pb.ListProfilesRequest(page_size=1000), timeout=PATIENCE_SECONDS),
        client.BatchGetProfiles.future(many, timeout=PATIENCE_SECONDS),
    ]


def check_slow_reads(
    checks: Checks, scratch: Path, what: str, call: Callable[[service.ProfileServiceStub], list[grpc.Future]], named: str
) -> None:
    """Reads that do not return, whoever made them."""
    checks.section(f"reads that do not return: {what}")
    switch, held = scratch / "slow", scratch / "slow.held"
    environment = preloaded(scratch, "slow_disk", SLOW_DISK_READS="/sled/", SLOW_DISK_SWITCH=str(switch))
    switch.unlink(missing_ok=True)
    held.unlink(missing_ok=True)
    server = Server("--sample", str(SAMPLE), config=COLD_SETTINGS, environment=environment)
    try:
        server.start()
        checks.equal(server.stop(), 0, f"{what}: exit code")
        server.start()
        with server.channel() as channel:
            switch.touch()
            began = time.monotonic()
            calls = call(profiles(channel))
            # Without it the check would find nothing.
            checks.that(eventually(held.exists), f"{what}: a read was held")
            code = server.wait(STOP_SECONDS)
            checks.equal(code, 1, f"{what}: exit code")
            checks.that(time.monotonic() - began < PATIENCE_SECONDS, f"{what}: the process ends soon")
            checks.that(any(call.code() != grpc.StatusCode.OK for call in calls), f"{what}: some got no answer")
        checks.that(f"{named} has not returned within 1s" in server.log(), f"{what}: the line says why")
        if call is get_cold:
            checks.that("the drain has not ended within" in server.log(), "the end did not wait for the thread")
        switch.unlink()
        server.start()
        checks.equal(server.stop(), 0, f"{what}: exit code after the restart")
    except ServerFailed as failure:
        checks.that(False, f"{what}: {failure}")
    finally:
        switch.unlink(missing_ok=True)
        server.__exit__(None, None, None)


def check_end_and_restart(
    checks: Checks, server: Server, switch: Path, filler: Filler, about: str, named: str
) -> None:
    """The server that has ended says why, and starts again with everything once the disk is well."""
    checks.that(f"{named} has not returned within 1s" in server.log(), f"{about}: the line says why")
    switch.unlink()
    server.start()
    with server.channel() as channel:
        same_profiles(checks, profiles(channel), filler, f"{about}: after the restart")
    checks.equal(server.stop(), 0, f"{about}: exit code after the restart")


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
        check_end_and_restart(checks, server, switch, filler, about, named)
    except ServerFailed as failure:
        checks.that(False, f"{about}: {failure}")
    finally:
        server.__exit__(None, None, None)


def full_pipe() -> tuple[int, int]:
    """A pipe into which nothing fits any more, and which a writer waits for."""
    reader, writer = os.pipe()
    flags = fcntl.fcntl(writer, fcntl.F_GETFL)
    fcntl.fcntl(writer, fcntl.F_SETFL, flags | os.O_NONBLOCK)
    for size in (4096, 1):
        try:
            while True:
                os.write(writer, b"x" * size)
        except BlockingIOError:
            pass
    fcntl.fcntl(writer, fcntl.F_SETFL, flags)
    return reader, writer


def check_silent(checks: Checks, scratch: Path, reader_is: str, about: str) -> None:
    """A disk that hangs while nobody takes what the server says."""
    what = f"standard error {reader_is}, {'syncs' if about == 'SLOW_DISK' else 'reads'} hang"
    checks.section(what)
    switch, held = scratch / "slow", scratch / "slow.held"
    part = "/commit-log/" if about == "SLOW_DISK" else "/sled/"
    environment = preloaded(scratch, "slow_disk", SLOW_DISK_SWITCH=str(switch), **{about: part})
    switch.unlink(missing_ok=True)
    held.unlink(missing_ok=True)
    server = Server("--sample", str(SAMPLE), config=COLD_SETTINGS, environment=environment)
    reader = writer = None
    try:
        # With a sample that was loaded before nothing has been read.
        server.start()
        checks.equal(server.stop(), 0, f"{what}: exit code")
        reader, writer = full_pipe()
        if reader_is == "closed":
            os.close(reader)
            reader = None
        server.stderr = writer
        server.start()
        with server.channel() as channel:
            client = profiles(channel)
            checks.equal(len(client.ListDomains(pb.ListDomainsRequest(page_size=1), timeout=30.0).domains), 1, what)
            switch.touch()
            calls = put_cold(client) if about == "SLOW_DISK" else get_cold(client)
            checks.that(eventually(held.exists), f"{what}: something was held")
            checks.equal(server.wait(STOP_SECONDS), 1, f"{what}: exit code")
            checks.that(any(call.code() != grpc.StatusCode.OK for call in calls), f"{what}: some got no answer")
        switch.unlink()
        server.stderr = None
        server.start()
        checks.equal(server.stop(), 0, f"{what}: exit code after the restart")
    except ServerFailed as failure:
        checks.that(False, f"{what}: {failure}")
    finally:
        for end in (reader, writer):
            if end is not None:
                os.close(end)
        switch.unlink(missing_ok=True)
        server.__exit__(None, None, None)


def check_all(checks: Checks, scratch: Path) -> None:
    """All of it."""
    check_slow_disk(checks, scratch, "/commit-log/", "a sync of the commit log")
    check_slow_disk(checks, scratch, "/sled/", "a flush of sled")
    check_slow_reads(checks, scratch, "gets", get_cold, "a read of the state")
    check_slow_reads(checks, scratch, "puts", put_cold, "a read of the committer")
    check_slow_reads(checks, scratch, "lists", list_cold, "the next row of a list, of many profiles or of the commit log")
    check_slow_stop(checks, scratch, "/commit-log/", "a sync of the commit log")
    for reader_is in ("full", "closed"):
        for about in ("SLOW_DISK", "SLOW_DISK_READS"):
            check_silent(checks, scratch, reader_is, about)
