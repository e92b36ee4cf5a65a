"""A real Prometheus with the shipped rules and a real server: everything they name is there, and an alert fires.

Prometheus gets a copy of deploy/prometheus in which only the address and the intervals differ. The check makes calls
whose number it knows and finds that number in Prometheus; sees all rules evaluated without an error; finds every metric
of rules and dashboard on the server's page and runs every query of the dashboard; and fills a small disk until
ProfilestoreDiskLow fires, and makes room until it is over. Before all that it looks at the page while a sync does not return,
and turns connections away until ProfilestoreConnectionsRefused fires.

Usage: prometheus_check.py. Needs Debian's prometheus. The small disk needs root and loop devices; says so and leaves that
part out where they are missing.
"""

import contextlib
import http.client
import json
import re
import shutil
import socket
import subprocess
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc

from checks import Checks, eventually
from filler import MIB, Filler, fill
from images import Mount, make_image, mounts_work
from preload import preloaded
from server import HOST, Server, ServerFailed, free_port, profiles
from stubs import REPOSITORY, Profile, pb

DEPLOY = REPOSITORY / "deploy"
PUBLISHER = REPOSITORY / "src" / "server" / "metrics" / "publisher.rs"
DISK_BYTES = 320 * MIB
SETTINGS = f"[store]\nmin_free_bytes = {64 * MIB}\nballast_bytes = {MIB}\n"
# Nobody listens there; a server without a collector has no figures of spans.
WITH_COLLECTOR = f'[observe]\notlp_endpoint = "http://{HOST}:1"\n'
GETS = 40
# What must not be on the page.
SECRETS = ("check-person", "secret@quiet.example", "Quiet Person", "quiet.example")
METRIC = re.compile(r"\b(?:grpc_server_|profilestore[_:]|process_)[a-zA-Z0-9_:]+|\bup\b")
# Queries that are empty while all is well, by a part of them.
EMPTY_WHEN_WELL = ("profilestore_disk_low{", "profilestore:call_errors:ratio_rate6h", "profilestore_publisher_")


def page_of(server: Server) -> str:
    """The server's /metrics."""
    with urllib.request.urlopen(f"http://{server.admin_address}/metrics", timeout=30) as answer:
        return answer.read().decode()


class Prometheus:
    """A Prometheus that scrapes one server every second."""

    def __init__(self, folder: Path, target: str) -> None:
        self._folder = folder
        self._address = f"{HOST}:{free_port()}"
        config = folder / "prometheus"
        shutil.copytree(DEPLOY / "prometheus", config)
        text = (config / "prometheus.yml").read_text()
        changed = text.replace("127.0.0.1:9464", target).replace("15s", "1s")
        assert changed.count(target) == 1 and changed.count("1s") == 2, "the shipped configuration looks different now"
        (config / "prometheus.yml").write_text(changed)
        self._config = config / "prometheus.yml"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Prometheus":
        command = ["prometheus", f"--config.file={self._config}", f"--web.listen-address={self._address}"]
        command += [f"--storage.tsdb.path={self._folder / 'tsdb'}", "--log.level=warn"]
        with (self._folder / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        if not eventually(self._is_ready):
            self.__exit__()
            raise ServerFailed("Prometheus does not start:\n" + (self._folder / "prometheus.log").read_text()[-2000:])
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self._address}/-/ready", timeout=5):
                return True
        except (OSError, http.client.HTTPException):
            return False

    def api(self, path: str, **arguments: str) -> dict[str, object]:
        """What an API answers; an error is an answer too."""
        url = f"http://{self._address}/api/v1/{path}?{urllib.parse.urlencode(arguments)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            return json.load(error)

    def value(self, query: str) -> float | None:
        """The value of a query with one result."""
        result = self.api("query", query=query).get("data", {}).get("result", [])
        return float(result[0]["value"][1]) if len(result) == 1 else None

    def has_answer(self, query: str) -> bool:
        """Whether a query has a result."""
        return bool(self.api("query", query=query).get("data", {}).get("result"))

    def rules(self) -> list[dict[str, object]]:
        """All rules as they were evaluated last."""
        return [rule for group in self.api("rules")["data"]["groups"] for rule in group["rules"]]

    def firing(self, name: str) -> list[dict[str, object]]:
        """The firing alerts of a name."""
        alerts = self.api("alerts")["data"]["alerts"]
        return [alert for alert in alerts if alert["labels"]["alertname"] == name and alert["state"] == "firing"]


def exported(page: str) -> set[str]:
    """The names of all series that the page has or may have."""
    names = set()
    for line in page.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            names |= {f"{name}_{part}" for part in ("bucket", "sum", "count")} if kind == "histogram" else {name}
    return names


def dashboard_queries() -> list[tuple[str, str]]:
    """Title and query of everything on the dashboard."""
    dashboard = json.loads((DEPLOY / "grafana" / "profilestore.json").read_text())
    found = [(panel["title"], target["expr"]) for panel in dashboard["panels"] for target in panel.get("targets", [])]
    found += [(note["name"], note["expr"]) for note in dashboard["annotations"]["list"]]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            found.append((variable["name"], variable["query"]["query"]))
    return found


def make_calls(server: Server) -> None:
    """Calls of most kinds, of which `GETS` are gets that succeed."""
    with server.channel() as channel:
        client = profiles(channel)
        for number in range(20):
            profile = Profile(id=f"{SECRETS[0]}-{number}", email=SECRETS[1], display_name=SECRETS[2])
            client.CreateProfile(pb.CreateProfileRequest(profile=profile), timeout=30)
        for number in range(GETS):
            client.GetProfile(pb.GetProfileRequest(id=f"{SECRETS[0]}-{number % 20}"), timeout=30)
        for bad in ("absent", "no spaces"):
            with contextlib.suppress(grpc.RpcError):
                client.GetProfile(pb.GetProfileRequest(id=bad), timeout=30)
        client.QueryProfilesByDomain(pb.QueryProfilesByDomainRequest(domain=SECRETS[3]), timeout=30)
        client.ListDomains(pb.ListDomainsRequest(), timeout=30)
        list(client.ExportProfiles(pb.ExportProfilesRequest(), timeout=30))


def check_page(checks: Checks, server: Server) -> None:
    """The page is well formed, and tells nothing about anybody."""
    checks.section("the page")
    page = page_of(server)
    linted = subprocess.run(["promtool", "check", "metrics"], input=page, text=True, capture_output=True)
    checks.that(linted.returncode == 0 and not linted.stderr, f"promtool check metrics: {linted.stderr[:500]}")
    for secret in SECRETS:
        checks.that(secret not in page, "nothing of the profiles is on the page")
    with Server(config="[observe]\nmetrics = false\n") as silent:
        connection = http.client.HTTPConnection(silent.admin_address, timeout=30)
        for path, status in (("/metrics", 404), ("/readyz", 200)):
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            checks.equal(answer.status, status, f"{path} without metrics")
        connection.close()


def check_rules(checks: Checks, prometheus: Prometheus) -> None:
    """All rules are there, are evaluated, and lead to a section of the runbook."""
    checks.section("rules")
    anchors = {
        re.sub(r"[^a-z0-9-]", "", line[3:].lower())
        for line in (DEPLOY / "RUNBOOK.md").read_text().splitlines()
        if line.startswith("## ")
    }
    shipped = sum(text.count("- alert:") + text.count("- record:") for text in rule_texts())
    checks.that(shipped > 30, "rules are shipped")
    evaluated = eventually(lambda: all(rule["health"] == "ok" for rule in prometheus.rules()))
    broken = [(rule["name"], rule.get("lastError")) for rule in prometheus.rules() if rule["health"] != "ok"]
    checks.that(evaluated, f"every rule is evaluated without an error: {broken[:3]}")
    checks.equal(len(prometheus.rules()), shipped, "rules that were loaded")
    for rule in prometheus.rules():
        if rule["type"] == "alerting":
            where, anchor = rule["annotations"]["runbook"].split("#")
            checks.that(where == "deploy/RUNBOOK.md" and anchor in anchors, f"{rule['name']} has a section in the runbook")
            checks.that(rule["labels"]["severity"] in ("critical", "warning"), f"{rule['name']} has a severity")


def rule_texts() -> Iterator[str]:
    """The shipped files of rules."""
    return (path.read_text() for path in sorted((DEPLOY / "prometheus" / "rules").glob("*.yml")))


def check_names(checks: Checks, server: Server, prometheus: Prometheus) -> None:
    """Everything that rules and dashboard name is there, and each query of the dashboard has an answer."""
    checks.section("names and queries")
    rate = "profilestore:call_errors:ratio_rate1h"
    checks.that(eventually(lambda: prometheus.value(rate) is not None), "there are rates after two scrapes")
    recorded = {rule["name"] for rule in prometheus.rules() if rule["type"] == "recording"}
    known = exported(page_of(server)) | recorded | {"up"}
    if PUBLISHER.exists():
        # Only a server with a publisher shows these, and it needs a broker.
        known |= set(re.findall(r'"(profilestore_publisher_\w+)"', PUBLISHER.read_text()))
    for rule in prometheus.rules():
        for name in METRIC.findall(re.sub(r'"[^"]*"', "", rule["query"])):
            if name.startswith("profilestore_publisher_") and not PUBLISHER.exists():
                continue
            checks.that(name in known, f"{rule['name']} names {name}, which nobody exports")
    for title, query in dashboard_queries():
        names = METRIC.findall(re.sub(r'"[^"]*"', "", query))
        checks.that(bool(names) and set(names) <= known, f"{title!r} names {set(names) - known}")
        if query.startswith("label_values"):
            continue
        plain = query.replace("$instance", ".*").replace("$__rate_interval", "20s")
        # What hides series that are nothing would hide a label that nobody has too.
        plain = plain.replace(" > 0", "")
        answer = prometheus.api("query", query=plain)
        if checks.equal(answer["status"], "success", f"{title!r}: {answer.get('error', '')}"):
            well = any(part in query for part in EMPTY_WHEN_WELL)
            # A rate needs two scrapes, and a rule an evaluation behind them.
            has_one = well or eventually(lambda: prometheus.has_answer(plain))
            checks.that(has_one, f"{title!r} has an answer: {plain}")


def check_counts(checks: Checks, prometheus: Prometheus) -> None:
    """Prometheus has the calls that were made."""
    checks.section("counts")
    for query, expected in (
        ('grpc_server_handled_total{grpc_method="GetProfile", grpc_code="OK"}', GETS),
        ('grpc_server_handled_total{grpc_method="GetProfile", grpc_code="NotFound"}', 1),
        ('grpc_server_handled_total{grpc_method="GetProfile", grpc_code="InvalidArgument"}', 1),
        ('grpc_server_handling_seconds_count{grpc_method="GetProfile"}', GETS + 2),
        ('grpc_server_handled_total{grpc_method="CreateProfile", grpc_code="OK"}', 20),
        ("sum(profilestore_cache_reads_total)", GETS + 1),
        ("profilestore_profiles", 20),
        ("profilestore_domains", 1),
        ("profilestore_commit_group_writes_sum", 20),
        ('profilestore_commit_step_seconds_count{step="log_append"} >= bool 1', 1),
        ('profilestore_store_operation_seconds_count{operation="commit"}', 20),
        ("profilestore_feed_newest_change", 20),
        ('profilestore_store_state{state="open"}', 1),
        ("profilestore_connections_accepted_total >= bool 1", 1),
        ("profilestore_request_in_flight_bytes", 0),
    ):
        checks.that(
            eventually(lambda: prometheus.value(query) == expected),
            f"{query} is {prometheus.value(query)} instead of {expected}",
        )


def check_alert(checks: Checks, server: Server, prometheus: Prometheus, disk: Path) -> None:
    """A disk that fills makes its alert fire; room ends it."""
    checks.section("an alert by a full disk")
    name = "ProfilestoreDiskLow"
    checks.equal(prometheus.firing(name), [], "alerts before")
    with server.channel() as channel:
        filler = Filler(profiles(channel))
        path = fill(disk, 48 * MIB)
        checks.equal(filler.write_until_refused(), "DISK_LOW", "reason of a refused write")
        checks.that(eventually(lambda: len(prometheus.firing(name)) == 1), f"{name} fires")
        firing = prometheus.firing(name)
        checks.equal([alert["labels"]["severity"] for alert in firing], ["critical"], "its severity")
        path.unlink()
        checks.that(eventually(lambda: not filler.write()), "writes are taken again")
        checks.that(eventually(lambda: not prometheus.firing(name)), f"{name} is over")


def check_refused(checks: Checks, scratch: Path) -> None:
    """A server that turns connections away makes its alert fire, also on machines without a small disk."""
    checks.section("an alert by connections that are turned away")
    name = "ProfilestoreConnectionsRefused"
    scratch.mkdir()
    with Server(config="[limits]\nconnections = 1\n") as server, Prometheus(scratch, server.admin_address) as prometheus:
        # The check's own first connections may have been two.
        refused = "profilestore_connections_refused_total"
        checks.that(eventually(lambda: prometheus.value(refused) is not None), "there is a scrape before")
        checks.equal(prometheus.firing(name), [], "alerts before")
        host, port = server.address.split(":")
        with contextlib.ExitStack() as held:
            for _ in range(5):
                held.enter_context(socket.create_connection((host, int(port)), 10.0))
            checks.that(eventually(lambda: len(prometheus.firing(name)) == 1), f"{name} fires")


def check_slow_disk(checks: Checks, scratch: Path) -> None:
    """The page is there and shows what waits while a sync does not come back."""
    checks.section("a page while the disk does not answer")
    switch = scratch / "slow"
    environment = preloaded(scratch, "slow_disk", SLOW_DISK="/commit-log/", SLOW_DISK_SWITCH=str(switch))
    waiting = 'profilestore_rpc_in_flight{grpc_type="unary",grpc_service="profilestore.v1.ProfileService",grpc_method="CreateProfile"} 1'
    with Server(environment=environment) as server, server.channel() as channel:
        switch.touch()
        request = pb.CreateProfileRequest(profile=Profile(id="waits"))
        write = profiles(channel).CreateProfile.future(request, timeout=300)
        checks.that(eventually(lambda: waiting in page_of(server)), "the write that waits is in flight")
        page = page_of(server)
        checks.that("profilestore_profiles 0" in page and not write.done(), "the page comes before the write is made")
        write.cancel()
        switch.unlink()
        server.kill()


def check_all(checks: Checks, scratch: Path, disk: Path | None) -> None:
    """One server and one Prometheus for all parts."""
    data_dir = disk / "data" if disk else None
    with Server(config=SETTINGS + WITH_COLLECTOR, data_dir=data_dir) as server:
        make_calls(server)
        check_page(checks, server)
        with Prometheus(scratch, server.admin_address) as prometheus:
            check_rules(checks, prometheus)
            check_counts(checks, prometheus)
            check_names(checks, server, prometheus)
            if disk:
                check_alert(checks, server, prometheus, disk)
            else:
                print("prometheus_check: PART NOT RUN: a small disk needs root and loop devices")
        checks.equal(server.stop(), 0, "exit code")


def main() -> None:
    """All parts, and the last line."""
    checks = Checks("prometheus_check")
    scratch = Path(tempfile.mkdtemp(prefix="profilestore-prometheus-"))
    try:
        check_slow_disk(checks, scratch)
        check_refused(checks, scratch / "refused")
        if mounts_work(scratch):
            image = scratch / "disk.img"
            make_image(image, DISK_BYTES)
            with Mount(image, scratch / "disk") as disk:
                check_all(checks, scratch, disk)
        else:
            check_all(checks, scratch, None)
    except ServerFailed as failure:
        checks.that(False, f"{failure}")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    checks.finish()


if __name__ == "__main__":
    main()
