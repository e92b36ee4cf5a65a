"""What a writer with hundreds of writes in flight knows: commit groups grow to their bound only under such a load."""

import threading

import grpc

from checks import Checks
from kill_oracle import NETWORK_CODES
from stubs import Profile, pb, service

PREFIX = "swarm-"
IN_FLIGHT = 300


class SwarmWriter:
    """Overwrites its profiles again and again, all at a time, one call each; each round has a number."""

    def __init__(self) -> None:
        # By profile: the last round that was acknowledged. The round is in flight for those that are behind it.
        self._acknowledged = [0] * IN_FLIGHT
        self._round = 0
        self.acknowledged = 0

    def run(self, client: service.ProfileServiceStub, stop: threading.Event) -> None:
        """Writes until told to stop, or until the server is gone in the middle of a call."""
        while not stop.is_set():
            self._round += 1
            calls = []
            for place in range(IN_FLIGHT):
                call = client.UpdateProfile.future(
                    pb.UpdateProfileRequest(profile=self._profile(place), allow_missing=True), timeout=300.0
                )
                # It may be called when the next round has begun: who waits for a call is woken before.
                call.add_done_callback(lambda done, place=place, number=self._round: self._note(done, place, number))
                calls.append(call)
            for call in calls:
                try:
                    call.result()
                except grpc.RpcError as error:
                    if error.code() in NETWORK_CODES:
                        return
                    raise

    def _note(self, call: grpc.Future, place: int, number: int) -> None:
        if not call.exception():
            self._acknowledged[place] = number
            self.acknowledged += 1

    def _profile(self, place: int) -> Profile:
        # A small one, so that the bound on the writes of a group is met before that on its bytes; it moves.
        email = f"{place}@n{self._round % 3}.swarm.example"
        return Profile(id=f"{PREFIX}{place}", email=email, display_name=str(self._round))

    def owns(self, profile_id: str) -> bool:
        """Whether only this writer writes the id."""
        return profile_id.startswith(PREFIX)

    def twin(self) -> "SwarmWriter":
        """A copy of what is known now. The last answers of a server that stands still may come meanwhile: so first what is in
        flight, and then what was acknowledged, of which nothing can be newer."""
        twin = SwarmWriter()
        twin._round = self._round
        twin._acknowledged = list(self._acknowledged)
        return twin

    def settle(self, found: dict[str, Profile], checks: Checks, when: str) -> None:
        """Each profile shows its last acknowledged write or the one in flight."""
        for place, acknowledged in enumerate(self._acknowledged):
            profile = found.get(f"{PREFIX}{place}")
            seen = int(profile.display_name) if profile else 0
            checks.that(seen in (acknowledged, self._round), f"{when}: an acknowledged write of the swarm is gone")
