"""The serving loop from outside: h2load, nghttp, grpcurl and grpcio, tiny windows, large answers, ten thousand idle
connections, floods, and a stop under load."""

import json
import resource
import socket
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpcurl
from checks import Checks
from load_tools import h2load, nghttp
from raw_http2 import SERVICE, RawConnection
from server import Server, profiles
from stubs import Profile, pb

SAMPLE = 3000
LARGE = 120
LARGE_VALUE = "x" * 12_000
LARGE_DOMAIN = "large.example"
IDLE_CONNECTIONS = 10_000
MANY_STREAMS = 100
MANY_GRPCURLS = 8
MAX_IDLE_BYTES = 48 * 1024
MAX_GROWTH_BYTES = 64 * 1024 * 1024
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADERS, RST_STREAM, SETTINGS, PING, CONTINUATION = 1, 3, 4, 6, 9


def framed(message: bytes) -> bytes:
    """A gRPC message as it stands in a body."""
    return struct.pack(">BI", 0, len(message)) + message


def http2_frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A frame by hand."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


OPENING = PREFACE + http2_frame(SETTINGS, 0, 0, b"")


def load_large(server: Server) -> list[str]:
    """Profiles of 12 KiB each, so that an answer with all of them has more than 1 MiB."""
    ids = [f"large-{number:03}" for number in range(LARGE)]
    with server.channel() as channel:
        for chosen in ids:
            profile = Profile(id=chosen, email=f"{chosen}@{LARGE_DOMAIN}", attributes={"v": LARGE_VALUE})
            profiles(channel).CreateProfile(pb.CreateProfileRequest(profile=profile))
    return ids


def check_limit_on_files(checks: Checks, server: Server, hard: int) -> None:
    checks.section("limit on open files")
    limits = Path(f"/proc/{server.pid}/limits").read_text()
    soft = next(line for line in limits.splitlines() if line.startswith("Max open files")).split()[3]
    checks.equal(soft, str(hard), "the server's soft limit, started with 256")


def check_unary(checks: Checks, server: Server, ids: list[str]) -> None:
    """h2load counts bytes, so that an answer that is cut or is an error is seen."""
    checks.section("h2load: unary calls")
    requests = {
        "GetProfile": pb.GetProfileRequest(id="user-00000042"),
        "BatchGetProfiles": pb.BatchGetProfilesRequest(ids=[f"user-{number:08}" for number in range(100)]),
        "QueryProfilesByDomain": pb.QueryProfilesByDomainRequest(domain="company-1.example", page_size=50),
        "ListProfiles": pb.ListProfilesRequest(page_size=30),
    }
    for method, request in requests.items():
        url, message = f"http://{server.address}{SERVICE}/{method}", request.SerializeToString()
        with RawConnection(server.address) as connection:
            answer = connection.call(method, message)
        checks.equal(answer.headers["grpc-status"], "0", f"status of {method}")
        quick = method == "GetProfile"
        for clients, streams, count, options in (
            (1, 1, 300, ()),
            (1, 100, 5000 if quick else 500, ()),
            # Large answers in flight have a bound over all connections, beyond which calls are refused.
            (8, 100 if quick else 20, 8000 if quick else 800, ()),
            (200, 1, 2000 if quick else 400, ()),
            (4, 20, 80, ("-w", "4", "-W", "16")),
            (1, 100, 200, ("-w", "8", "-W", "16")),
        ):
            if method != "GetProfile" and options:
                options = ("-w", "10", "-W", "16")
            load = h2load(url, framed(message), count, clients, streams, *options)
            what = f"{method}, {clients} connections of {streams} calls {' '.join(options)}"
            counted = (load.total, load.done, load.succeeded, load.good_status)
            checks.equal(counted, (count,) * 4, f"{what}: calls made, done, succeeded, 2xx")
            checks.equal(load.data_bytes, count * len(answer.body), f"{what}: bytes of all answers")


def check_large(checks: Checks, server: Server, ids: list[str]) -> None:
    checks.section("answers of more than 1 MiB")
    requests = {
        "BatchGetProfiles": pb.BatchGetProfilesRequest(ids=ids),
        "QueryProfilesByDomain": pb.QueryProfilesByDomainRequest(domain=LARGE_DOMAIN, page_size=1000),
    }
    for method, request in requests.items():
        url, message = f"http://{server.address}{SERVICE}/{method}", request.SerializeToString()
        with RawConnection(server.address) as connection:
            expected = connection.call(method, message).body
        checks.that(len(expected) > 1024 * 1024, f"{method} has {len(expected)} bytes")
        for options in ((), ("-w", "10", "-W", "16"), ("-w", "20", "-W", "20"), ("-w", "30", "-W", "30")):
            body = nghttp(url, framed(message), *options)
            checks.that(body == expected, f"nghttp {' '.join(options)}: all of {method} as it is")
        load = h2load(url, framed(message), 120, 4, 10)
        checks.equal((load.good_status, load.data_bytes), (120, 120 * len(expected)), f"h2load: all of {method}")


def check_many_streams(checks: Checks, server: Server) -> None:
    """grpcurl makes one call on a connection, so there are several of it."""
    checks.section("many streams: nghttp, grpcurl")
    for method, request in {
        "GetProfile": pb.GetProfileRequest(id="user-00000042"),
        "BatchGetProfiles": pb.BatchGetProfilesRequest(ids=[f"user-{number:08}" for number in range(100)]),
        "ListProfiles": pb.ListProfilesRequest(page_size=5),
    }.items():
        url, message = f"http://{server.address}{SERVICE}/{method}", request.SerializeToString()
        with RawConnection(server.address) as connection:
            expected = connection.call(method, message).body
        for options in ((), ("-w", "10", "-W", "16")):
            bodies = nghttp(url, framed(message), "-m", str(MANY_STREAMS), *options)
            what = f"nghttp {' '.join(options)}: bytes of {MANY_STREAMS} calls of {method} on one connection"
            checks.equal(len(bodies), MANY_STREAMS * len(expected), what)
    wanted = [f"user-{number:08}" for number in range(MANY_GRPCURLS * 5)]
    with ThreadPoolExecutor(MANY_GRPCURLS) as threads:
        found = list(threads.map(lambda chosen: grpcurl.call(server.address, "GetProfile", id=chosen)["id"], wanted))
    checks.that(found == wanted, f"grpcurl: {MANY_GRPCURLS} at a time, each with its own answer")


def check_streams(checks: Checks, server: Server) -> None:
    checks.section("streams: nghttp, grpcurl, grpcio")
    everything = pb.ExportProfilesRequest()
    url = f"http://{server.address}{SERVICE}/ExportProfiles"
    for options in ((), ("-w", "10", "-W", "16")):
        body, count = nghttp(url, framed(everything.SerializeToString()), *options), 0
        while body:
            length = struct.unpack(">BI", body[:5])[1]
            count += len(pb.ExportProfilesResponse.FromString(body[5 : 5 + length]).profiles)
            body = body[5 + length :]
        checks.equal(count, SAMPLE + LARGE, f"nghttp {' '.join(options)}: exported profiles")
    printed, count, decoder = grpcurl.run(server.address, f"{SERVICE[1:]}/ExportProfiles", data={}), 0, json.JSONDecoder()
    while printed := printed.lstrip():
        chunk, end = decoder.raw_decode(printed)
        count, printed = count + len(chunk["profiles"]), printed[end:]
    checks.equal(count, SAMPLE + LARGE, "grpcurl: exported profiles")
    with server.channel() as channel:
        client = profiles(channel)
        streams = [client.ExportProfiles(everything) for _ in range(20)]
        counts = [sum(len(chunk.profiles) for chunk in stream) for stream in streams]
        checks.equal(counts, [SAMPLE + LARGE] * 20, "grpcio: 20 exports on one connection, read one after the other")
        for in_flight in (1, 100):
            for begin in range(0, 1000, in_flight):
                wanted = [f"user-{number:08}" for number in range(begin, begin + in_flight)]
                calls = [client.GetProfile.future(pb.GetProfileRequest(id=chosen)) for chosen in wanted]
                found = [call.result(timeout=30).id for call in calls]
                checks.that(found == wanted, f"grpcio: {in_flight} calls in flight, each with its own answer")


def open_idle(server: Server) -> socket.socket:
    """A connection that is served: the server's settings have come."""
    host, port = server.address.split(":")
    connection = socket.create_connection((host, int(port)), 30.0)
    connection.sendall(OPENING)
    assert connection.recv(1), "the server closed an idle connection"
    return connection


def answers_ping(connection: socket.socket) -> bool:
    """Whether the server still answers there."""
    try:
        connection.sendall(http2_frame(PING, 0, 0, b"are you?"))
        received = b""
        while b"are you?" not in received:
            data = connection.recv(4096)
            if not data:
                return False
            received += data
        return True
    except OSError:
        return False


def check_idle_connections(checks: Checks, server: Server, hard: int) -> None:
    count = min(IDLE_CONNECTIONS, hard - 1000)
    checks.section(f"{count} idle connections")
    checks.equal(count, IDLE_CONNECTIONS, f"idle connections with a hard limit of {hard} open files")
    before = server.resident_bytes()
    idle = [open_idle(server) for _ in range(count)]
    each = (server.resident_bytes() - before) // count
    print(f"an idle connection takes {each} bytes of the server", flush=True)
    checks.that(each <= MAX_IDLE_BYTES, f"an idle connection takes {each} bytes, at most {MAX_IDLE_BYTES}")
    message = framed(pb.GetProfileRequest(id="user-00000001").SerializeToString())
    load = h2load(f"http://{server.address}{SERVICE}/GetProfile", message, 2000, 8, 10)
    checks.equal(load.good_status, 2000, "calls beside the idle connections")
    checks.equal(sum(answers_ping(connection) for connection in idle), count, "idle connections that are open after that")
    for connection in idle:
        connection.close()


def flood(server: Server, bytes_of_one: bytes) -> None:
    """Sends until the server closes the connection or takes no more; reads nothing."""
    host, port = server.address.split(":")
    with socket.create_connection((host, int(port)), 2.0) as connection:
        try:
            connection.sendall(OPENING)
            for _ in range(2000):
                connection.sendall(bytes_of_one)
        except OSError:
            # Closed, or full: either is an answer to a flood.
            pass


def check_floods(checks: Checks, server: Server) -> None:
    checks.section("floods")
    path = f"{SERVICE}/GetProfile".encode()
    # From HPACK's table: POST and http; the path and the authority as they are.
    block = b"\x83\x86\x04" + bytes([len(path)]) + path + b"\x01\x01a"
    resets = b"".join(
        http2_frame(HEADERS, 4, stream, block) + http2_frame(RST_STREAM, 0, stream, struct.pack(">I", 8))
        for stream in range(1, 2000, 2)
    )
    endless = http2_frame(HEADERS, 0, 1, block) + http2_frame(CONTINUATION, 0, 1, b"\x00\x01x\x7f\x81\x5d" + b"y" * 12_032) * 20
    floods = {
        "resets": resets,
        "headers without an end": endless,
        "pings": http2_frame(PING, 0, 0, b"12345678") * 500,
        "settings": http2_frame(SETTINGS, 0, 0, b"\x00\x04\x00\x01\x00\x00") * 500,
        "garbage": bytes(range(256)) * 60,
    }
    before = server.resident_bytes()
    for what, bytes_of_one in floods.items():
        threads = [threading.Thread(target=flood, args=(server, bytes_of_one)) for _ in range(8)]
        for thread in threads:
            thread.start()
        with server.channel() as channel:
            answer = profiles(channel).GetProfile(pb.GetProfileRequest(id="user-00000001"), timeout=30)
            checks.equal(answer.id, "user-00000001", f"an answer for others during {what}")
        for thread in threads:
            thread.join()
        grown = server.resident_bytes() - before
        checks.that(grown < MAX_GROWTH_BYTES, f"the server grew by {grown} bytes under {what}")


def check_stop(checks: Checks, server: Server) -> None:
    checks.section("a stop while a slow client reads")
    with server.channel() as channel:
        stream = profiles(channel).ExportProfiles(pb.ExportProfilesRequest())
        count = len(next(stream).profiles)
        codes: list[int] = []
        stopping = threading.Thread(target=lambda: codes.append(server.stop()))
        stopping.start()
        server.wait_until_refusing()
        count += sum(len(chunk.profiles) for chunk in stream)
        stopping.join()
    checks.equal(count, SAMPLE + LARGE, "profiles of an export that a stop met")
    checks.equal(codes, [0], "exit code after SIGTERM")


def main() -> None:
    """All of them on one server, which is stopped last."""
    checks = Checks("serving_check")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    with Server("--sample", str(SAMPLE)) as server:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        check_limit_on_files(checks, server, hard)
        ids = load_large(server)
        check_unary(checks, server, ids)
        check_large(checks, server, ids)
        check_streams(checks, server)
        check_many_streams(checks, server)
        check_idle_connections(checks, server, hard)
        check_floods(checks, server)
        check_stop(checks, server)
    checks.finish()


if __name__ == "__main__":
    main()
