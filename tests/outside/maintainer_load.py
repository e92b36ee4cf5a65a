"""Loads profiles with several CreateProfile calls in flight, and goes on after the server was killed."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc
from google.rpc import error_details_pb2

from error_details import details_of
from server import Server, profiles
from stubs import Profile, pb, service

CALLS_IN_FLIGHT = 16
RESTART_SECONDS = 300.0


class Load:
    """One load. `acknowledged` holds what the server answered, by id; `refused` why it took no others."""

    def __init__(self, server: Server, kill_after: int | None = None) -> None:
        self.acknowledged: dict[str, Profile] = {}
        self.refused: dict[str, str] = {}
        self.bad_refusals: list[str] = []
        self.lost_answers = 0
        self.found_already_made = 0
        self.surprises: list[str] = []
        self._server = server
        self._kill_after = kill_after
        self._lock = threading.Lock()
        self._up = threading.Event()
        self._kill_now = threading.Event()

    def run(self, wanted: list[Profile], after_restart: Callable[["Load"], None] = lambda load: None) -> None:
        """Loads all; kills the server once `kill_after` answers have come and goes on afterwards. While the
        callers still wait, `after_restart` may look at what survived."""
        self._up.set()
        with self._server.channel() as channel, ThreadPoolExecutor(CALLS_IN_FLIGHT) as pool:
            client = profiles(channel)
            calls = [pool.submit(self._create, client, profile) for profile in wanted]
            try:
                if self._kill_after is not None:
                    self._kill_in_the_middle(after_restart)
            finally:
                self._up.set()
            for call in calls:
                call.result()

    def _kill_in_the_middle(self, after_restart: Callable[["Load"], None]) -> None:
        if not self._kill_now.wait(RESTART_SECONDS):
            raise AssertionError("the load did not come to its middle")
        # Nobody begins a call between the kill and the restart, which would be made while `after_restart` counts.
        self._up.clear()
        self._server.kill()
        self._server.start()
        after_restart(self)

    def _create(self, client: service.ProfileServiceStub, profile: Profile) -> None:
        answer_was_lost = False
        while True:
            if not self._up.wait(RESTART_SECONDS):
                raise AssertionError("the server did not come back")
            try:
                stored = client.CreateProfile(pb.CreateProfileRequest(profile=profile), timeout=120.0)
            except grpc.RpcError as error:
                if error.code() == grpc.StatusCode.UNAVAILABLE:
                    answer_was_lost = True
                    self._note_lost_answer()
                    continue
                if error.code() == grpc.StatusCode.ALREADY_EXISTS and answer_was_lost:
                    # The write was made and only its answer was lost: creating by a fixed id is idempotent.
                    stored = client.GetProfile(pb.GetProfileRequest(id=profile.id), timeout=120.0)
                    self._note(profile, stored, already_made=True)
                    return
                self._note_refusal(profile, error)
                return
            self._note(profile, stored)
            return

    def _note(self, wanted: Profile, stored: Profile, already_made: bool = False) -> None:
        with self._lock:
            self.acknowledged[wanted.id] = stored
            self.found_already_made += already_made
            if self._kill_after is not None and len(self.acknowledged) >= self._kill_after:
                self._kill_now.set()

    def _note_lost_answer(self) -> None:
        # Until the restart every further call would fail at once: wait for it instead.
        with self._lock:
            self.lost_answers += 1
        if self._kill_after is None:
            raise AssertionError("the server went away though nobody killed it")
        threading.Event().wait(0.02)

    def _note_refusal(self, profile: Profile, error: grpc.RpcError) -> None:
        details = details_of(error)
        request = details.get(error_details_pb2.BadRequest)
        violations = list(request.field_violations) if request else []
        names_email = any(violation.field == "profile.email" for violation in violations)
        with self._lock:
            if error.code() == grpc.StatusCode.INVALID_ARGUMENT and names_email:
                self.refused[profile.id] = "; ".join(violation.description for violation in violations)
            else:
                self.bad_refusals.append(str(error.code()))
