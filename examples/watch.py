"""Follows the changes of a profilestore and goes on where it stopped, also after a restart of either side.

    pip install grpcio grpcio-tools
    python -m grpc_tools.protoc -I proto --python_out=. --grpc_python_out=. proto/profilestore/v1/*.proto
    python examples/watch.py --domain example.com --token-file watch.token

Prints one line for each change. The token file is written after the lines, so a line can come twice after a crash of
this program and is never left out; the position says which lines are the same.
"""

import argparse
import pathlib
import sys
import time

import grpc

# The stubs are where protoc was told to write them: here, and not beside this file, where Python looks.
sys.path.insert(0, str(pathlib.Path.cwd()))
from profilestore.v1 import profile_service_pb2 as api
from profilestore.v1 import profile_service_pb2_grpc as rpc

# After these the same token works again, here or at the server that comes next.
TRY_AGAIN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
LONGEST_PAUSE_SECONDS = 5.0


def first_request(options: argparse.Namespace, token: str) -> api.WatchProfilesRequest:
    """Where to start: after the token, or with all current profiles."""
    request = api.WatchProfilesRequest(domain=options.domain, include_subdomains=options.subdomains)
    if token:
        request.resume_token = token
    elif options.oldest:
        request.start_at = api.WATCH_START_OLDEST
    else:
        request.start_at, request.include_snapshot = api.WATCH_START_NOW, True
    return request


def main() -> None:
    """Watches until the limit, or for ever."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--address", default="127.0.0.1:50051")
    parser.add_argument("--domain", default="", help="only the profiles of this domain")
    parser.add_argument("--subdomains", action="store_true")
    parser.add_argument("--oldest", action="store_true", help="all kept changes instead of a snapshot first")
    parser.add_argument("--token-file", type=pathlib.Path, help="where to keep the place")
    parser.add_argument("--limit", type=int, default=0, help="end after so many changes")
    options = parser.parse_args()

    token = ""
    if options.token_file and options.token_file.exists():
        token = options.token_file.read_text()
    seen, pause = 0, 0.1
    while True:
        try:
            with grpc.insecure_channel(options.address) as channel:
                for response in rpc.ProfileServiceStub(channel).WatchProfiles(first_request(options, token)):
                    for event in response.events:
                        print(api.ProfileEventType.Name(event.type), event.id, event.position, flush=True)
                    if response.current:
                        print("CURRENT", flush=True)
                    seen += len(response.events)
                    token, pause = response.resume_token, 0.1
                    if options.token_file:
                        written = options.token_file.with_suffix(".new")
                        written.write_text(token)
                        written.replace(options.token_file)
                    if options.limit and seen >= options.limit:
                        return
        except grpc.RpcError as error:
            # OUT_OF_RANGE: the token is older than what the server keeps, and only a new snapshot helps.
            if error.code() not in TRY_AGAIN:
                raise SystemExit(f"{error.code().name}: {error.details()}") from None
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


if __name__ == "__main__":
    main()
