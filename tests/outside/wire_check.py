"""Outside clients against the release binary: Python grpcio and grpcurl, happy paths and every error."""

from checks import Checks
from paging import picture
from server import Server
from stubs import pb
from wire import SEED, new_wire
from wire_bad_input import check_bad_input
from wire_bulk import check_bulk
from wire_reads import check_reads
from wire_standard import check_standard_services
from wire_transport import check_transport
from wire_writes import check_unique_emails, check_writes


def main() -> None:
    """Runs all wire checks on one server, and those of unique e-mails on another."""
    checks = Checks("wire_check")
    with Server() as server:
        wire = new_wire(checks, server)
        for profile in SEED:
            wire.client.CreateProfile(pb.CreateProfileRequest(profile=profile))
        before = picture(wire.client)
        check_reads(wire)
        check_writes(wire)
        check_bulk(wire)
        check_bad_input(wire)
        check_transport(wire)
        check_standard_services(wire)
        checks.that(picture(wire.client) == before, "after all checks the seed is as it was")
        wire.channel.close()
        checks.equal(server.stop(), 0, "exit code after SIGTERM")
    check_unique_emails(checks)
    checks.finish()


if __name__ == "__main__":
    main()
