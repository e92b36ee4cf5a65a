"""Whether a store is whole by its own word: Verify by call, `profilestore verify` without a server, and its log by a watch."""

import subprocess
from pathlib import Path

import grpc

from checks import Checks
from server import Server, clean_environment, profiles, release_binary
from stubs import Profile, admin_pb, admin_service, pb
from watch_check import Belief

VERIFY_SECONDS = 120.0
REPLAY_SECONDS = 300.0
# Written last of all, so that who has it in a watch has everything.
MARKER = "marker"


def verify_by_call(checks: Checks, channel: grpc.Channel, profile_count: int, when: str) -> None:
    """Verify finds nothing wrong, has looked at every profile, and compared everything, since nobody writes."""
    admin = admin_service.AdminServiceStub(channel)
    last, problems = admin_pb.VerifyResponse(), []
    try:
        for last in admin.Verify(admin_pb.VerifyRequest(), timeout=VERIFY_SECONDS):
            problems += [problem.description for problem in last.problems]
    except grpc.RpcError as error:
        problems.append(f"{error.code()}: {error.details()}")
    checks.equal(problems, [], f"{when}: problems that Verify finds")
    said = (last.done, last.checked_count, last.unsettled_count)
    checks.equal(said, (True, profile_count, 0), f"{when}: Verify's end, profiles and what it could not compare")


def verify_without_a_server(checks: Checks, data_dir: Path, when: str) -> None:
    """`profilestore verify --data-dir` finds nothing wrong."""
    command = [str(release_binary()), "verify", "--data-dir", str(data_dir)]
    ran = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=VERIFY_SECONDS, env=clean_environment()
    )
    checks.equal(ran.returncode, 0, f"{when}: exit code of verify, which says: {(ran.stdout + ran.stderr)[-600:]}")


class Replay:
    """All changes from the oldest that is kept, or as another watch gives them, applied one after the other."""

    def __init__(self, belief: Belief | None = None) -> None:
        self._belief = belief or Belief(pb.WatchProfilesRequest(start_at=pb.WATCH_START_OLDEST))
        self._marks = 0

    def check(self, checks: Checks, server: Server, records: list[Profile], when: str) -> None:
        """Goes on to what is there now, and compares it with the whole list, which nobody changes meanwhile."""
        self._marks += 1
        mark = Profile(id=MARKER, display_name=f"{self._marks} {when}")
        belief = self._belief
        with server.channel() as channel:
            client = profiles(channel)
            request = pb.UpdateProfileRequest(profile=mark, allow_missing=True)
            written = client.UpdateProfile(request, timeout=30.0)
            try:
                for response in client.WatchProfiles(belief.next_request(), timeout=REPLAY_SECONDS):
                    belief.take(response)
                    # A snapshot may have the marker before its end.
                    whole = belief.current or not belief.request.include_snapshot
                    if whole and belief.profiles.get(MARKER) == written:
                        break
            except grpc.RpcError as error:
                checks.that(False, f"{when}: the watch from the oldest change: {error.code()}: {error.details()}")
                return
        from_log = {key: value for key, value in belief.profiles.items() if key != MARKER}
        from_list = {record.id: record for record in records if record.id != MARKER}
        wrong = sum(from_log.get(key) != from_list.get(key) for key in from_log.keys() | from_list.keys())
        checks.equal(wrong, 0, f"{when}: profiles that the log and the list do not agree about")

    def changes(self) -> int:
        """How many changes were applied."""
        return len(self._belief.positions)
