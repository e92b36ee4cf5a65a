"""What observing costs: the server's CPU per hot get with metrics, status page, slow lines and traces against without, in
alternating rounds of h2load.

    tests/outside/observe_cost.py [ROUNDS [GETS]]

With nothing, where nobody is told of any call and no clock is read for one; with everything but traces; with a collector and 1 % of the calls recorded; with one that never answers; and with a caller's
`traceparent` that asks for no record. The collector is a program of its own, so its CPU does not count.
"""

import os
import statistics
import sys
from concurrent import futures
from multiprocessing import Process, Queue
from threading import Event

import grpc

from load_tools import h2load
from raw_http2 import SERVICE
from server import HOST, Server
from stubs import pb

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
UNSAMPLED = ("-H", "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00")
NOTHING = {
    "PROFILESTORE__OBSERVE__METRICS": "false",
    "PROFILESTORE__OBSERVE__STATUS_PAGE": "false",
    "PROFILESTORE__OBSERVE__SLOW_REQUEST": "0s",
    "PROFILESTORE__OBSERVE__FAILED_REQUESTS": "false",
}
SHAPES = {"8 x 32": (8, 32), "16 x 1": (16, 1)}


def collect(port: "Queue[int]", hangs: bool) -> None:
    """A collector that takes everything, or never answers."""

    def export(request: bytes, _: grpc.ServicerContext) -> bytes:
        if hangs:
            Event().wait()
        return b""

    handler = grpc.unary_unary_rpc_method_handler(export)
    service, method = EXPORT[1:].split("/")
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {method: handler})])
    port.put(server.add_insecure_port(f"{HOST}:0"))
    server.start()
    server.wait_for_termination()


def collector(hangs: bool) -> tuple[Process, str]:
    port: "Queue[int]" = Queue()
    process = Process(target=collect, args=(port, hangs), daemon=True)
    process.start()
    return process, f"http://{HOST}:{port.get(timeout=20)}"


def cpu_seconds(server: Server) -> float:
    """All CPU that the server has used so far."""
    with open(f"/proc/{server.pid}/stat", encoding="ascii") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def round_of(server: Server, gets: int, shape: tuple[int, int], options: tuple[str, ...]) -> float:
    """The CPU of one round, in microseconds per get."""
    message = pb.GetProfileRequest(id="user-00000042").SerializeToString()
    body = b"\0" + len(message).to_bytes(4, "big") + message
    before = cpu_seconds(server)
    load = h2load(f"http://{server.address}{SERVICE}/GetProfile", body, gets, *shape, *options)
    assert load.good_status == gets, load
    return (cpu_seconds(server) - before) * 1e6 / gets


def main() -> None:
    rounds, gets = (int(argument) for argument in (sys.argv[1:] + ["7", "100000"][len(sys.argv) - 1 :]))
    (taking, takes), (hanging, hangs) = collector(False), collector(True)
    ways = {
        "no traces": ({}, ()),
        "nothing observed": (NOTHING, ()),
        "1 % recorded": ({"PROFILESTORE__OBSERVE__OTLP_ENDPOINT": takes}, ()),
        "1 %, the collector hangs": ({"PROFILESTORE__OBSERVE__OTLP_ENDPOINT": hangs}, ()),
        "traced, callers record nothing": ({"PROFILESTORE__OBSERVE__OTLP_ENDPOINT": takes}, UNSAMPLED),
    }
    servers = {}
    try:
        for way, (environment, _) in ways.items():
            servers[way] = Server("--sample", "1000", environment=environment)
            servers[way].start()
        for shape_name, shape in SHAPES.items():
            costs: dict[str, list[float]] = {way: [] for way in ways}
            for each in range(rounds + 1):
                for way, (_, options) in ways.items():
                    cost = round_of(servers[way], gets, shape, options)
                    # The first round warms everything up.
                    if each > 0:
                        costs[way].append(cost)
            base = costs["nothing observed"]
            for way, cost in costs.items():
                ratio = statistics.median(mine / theirs for mine, theirs in zip(cost, base))
                print(f"{shape_name}\t{way}\t{statistics.median(cost):.2f} us\t{ratio:.3f}", flush=True)
    finally:
        for server in servers.values():
            server.kill()
        taking.kill()
        hanging.kill()


if __name__ == "__main__":
    main()
