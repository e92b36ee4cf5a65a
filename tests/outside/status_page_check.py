"""Looks at the status page as people do: a real server under a load, headless Chromium, wide and narrow windows, by day
and by night. What the page says is compared with /metrics. `--keep FOLDER` keeps the pictures."""

import argparse
import json
import re
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from checks import Checks
from chromium import Browser
from server import Server, clean_environment, release_binary

SAMPLE = 20_000
# An open load, so that about as much comes in every second.
RATE = 400
MIX = "get=75,batch=5,query=10,put=10"
# The page's large numbers are about the last so many seconds.
MEAN_OVER = 10
# So many times the seconds are looked at: what holds the machine up in one and not in the other reading makes them differ, and
# what is wrong differs every time.
LOOKS = 5
WIDTHS = {"desktop": (1280, 900), "phone": (360, 740)}
BUCKET = re.compile(r'^grpc_server_handling_seconds_bucket\{(.*),le="(.*)"\} (\S+)$')


def scrape(server: Server) -> str:
    """What /metrics says."""
    with urllib.request.urlopen(f"http://{server.admin_address}/metrics", timeout=30) as answer:
        return answer.read().decode()


def total(page: str, name: str, *labels: str) -> float:
    """The sum of all series of a name that have these labels."""
    lines = (line for line in page.splitlines() if re.match(rf"{name}[{{ ]", line))
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if all(label in line for label in labels))


def unary_buckets(page: str) -> dict[float, float]:
    """How many calls that are no streams took at most so many seconds."""
    buckets: dict[float, float] = {}
    for line in page.splitlines():
        found = BUCKET.match(line)
        if found and 'grpc_type="unary"' in found[1]:
            bound = float(found[2].replace("+Inf", "inf"))
            buckets[bound] = buckets.get(bound, 0.0) + float(found[3])
    return buckets


def bucket_of_quantile(before: str, after: str, part: float) -> tuple[float, float]:
    """The bounds of the bucket that a quantile of the calls between two scrapes lies in, in milliseconds."""
    then, now = unary_buckets(before), unary_buckets(after)
    counts = {bound: now[bound] - then[bound] for bound in sorted(now)}
    lower = 0.0
    for bound, count in counts.items():
        if count >= part * counts[float("inf")]:
            return lower * 1e3, bound * 1e3
        lower = bound
    raise AssertionError("the last bucket has all calls")


def shown(browser: Browser, selector: str) -> float | None:
    """The exact number behind what an element shows."""
    value = browser.value(f"document.querySelector({json.dumps(selector)}).dataset.value")
    return None if value is None else float(value)


class Look:
    """What one look at the numbers came to."""

    def __init__(self) -> None:
        self.results: list[tuple[bool, str]] = []

    def that(self, holds: bool, what: str) -> None:
        """Notes whether something holds."""
        self.results.append((holds, what))

    def near(self, what: str, actual: float | None, expected: float, slack: float) -> None:
        """A number of the page is as far from that of /metrics as the time between the two readings allows."""
        holds = actual is not None and abs(actual - expected) <= slack
        self.that(holds, f"{what}: the page says {actual}, /metrics {expected:.4g} (may differ by {slack:.3g})")

    def all_hold(self) -> bool:
        """Whether everything holds."""
        return all(holds for holds, _ in self.results)


def check_numbers(checks: Checks, server: Server, browser: Browser) -> None:
    """The large numbers: in one of some looks all are what /metrics says of the same seconds."""
    browser.shape(*WIDTHS["desktop"], dark=False)
    browser.open(f"http://{server.admin_address}/")
    browser.wait_until("document.querySelector('#state').dataset.state === 'serving'")
    for _ in range(LOOKS):
        look = look_at_numbers(server, browser)
        if look.all_hold():
            break
        print(f"looked again: {'; '.join(what for holds, what in look.results if not holds)}", flush=True)
    for holds, what in look.results:
        checks.that(holds, what)


def look_at_numbers(server: Server, browser: Browser) -> Look:
    """The large numbers against the difference of two scrapes over the same seconds."""
    look = Look()
    before, started = scrape(server), time.monotonic()
    time.sleep(max(0.0, MEAN_OVER + 0.5 - (time.monotonic() - started)))
    after, seconds = scrape(server), time.monotonic() - started
    now = {name: shown(browser, f'[data-now="{name}"]') for name in browser.value(
        "[...document.querySelectorAll('[data-now]')].map((each) => each.dataset.now)")}
    # Two seconds of the load may be in one and not in the other.
    slack = 2.0 / MEAN_OVER

    def rate(name: str, *labels: str) -> float:
        return (total(after, name, *labels) - total(before, name, *labels)) / seconds

    calls = rate("grpc_server_handled_total")
    look.that(calls > 0, "the load runs")
    look.near("calls/s", now["calls"], calls, slack * calls)
    writes = rate("grpc_server_handled_total", 'grpc_method="UpdateProfile"')
    look.that(writes > 0, "the load writes")
    look.near("writes/s", now["writes"], writes, slack * writes + 1)
    look.near("server errors/s", now["server_errors"], 0.0, 0.0)
    for part, name in ((0.5, "p50_ms"), (0.99, "p99_ms")):
        lower, upper = bucket_of_quantile(before, after, part)
        value = now[name]
        holds = value is not None and lower / 4 <= value <= upper * 4
        look.that(holds, f"{name}: the page says {value}, by /metrics it is from {lower} to {upper} ms")
    misses = rate("profilestore_cache_reads_total", 'result="miss"')
    hits = rate("profilestore_cache_reads_total") - misses
    look.near("hit ratio", now["hit_ratio"], hits / max(1e-9, hits + misses), slack)
    groups = rate("profilestore_commit_group_writes_count")
    look.that(groups > 0, "writes are committed in groups")
    look.near("groups/s", now["groups"], groups, slack * groups + 1)
    size = rate("profilestore_commit_group_writes_sum") / max(1e-9, groups)
    look.near("writes a group", now["group_size"], size, 0.25 * size + 0.5)
    look.that((now["sync_p99_ms"] or 0) > 0, "the page shows how long syncs take")
    for name, metric in (("profiles", "profilestore_profiles"), ("domains", "profilestore_domains")):
        look.near(name, shown(browser, f'[data-total="{name}"]'), total(after, metric), 0.0)
    live = total(after, "profilestore_live_bytes")
    look.near("live bytes", shown(browser, '[data-total="live_bytes"]'), live, 0.02 * live)
    return look


def check_tables(checks: Checks, browser: Browser) -> None:
    """The tables have what the load does, and no id as it is."""
    rows: dict[str, list[list[str]]] = {
        name: browser.value(
            f"[...document.querySelectorAll('#{name} tbody tr')].map((row) => [...row.cells].map((c) => c.textContent))"
        )
        for name in ("methods", "slow", "ids", "domains")
    }
    methods = {row[0] for row in rows["methods"]}
    expected = {"GetProfile", "BatchGetProfiles", "QueryProfilesByDomain", "UpdateProfile"}
    checks.that(expected <= methods, f"the calls of the load are in the table: {sorted(methods)}")
    checks.that(len(rows["slow"]) >= 5 and all(len(row) == 5 for row in rows["slow"]), "slow requests are shown")
    checks.that(len(rows["ids"]) == 10 and len(rows["domains"]) == 10, "ten hot keys and ten domains are shown")
    checks.that(all(re.fullmatch(r".… #[0-9a-f]{6}", row[0]) for row in rows["ids"]), "ids are shortened")
    reads = [float(row[2].replace(",", "")) for row in rows["ids"]]
    checks.that(reads == sorted(reads, reverse=True) and reads[0] > 0, "the hottest key comes first")
    checks.that(all(row[0].endswith(".example") for row in rows["domains"]), "domains are shown whole")
    text = browser.value("document.body.innerText")
    checks.that("@" not in text and "user-" not in text, "nothing on the page is an id or an e-mail")


def check_looks(checks: Checks, server: Server, browser: Browser, folder: Path) -> None:
    """No scrolling to the side, readable in every form, and plots that move."""
    for name, (width, height) in WIDTHS.items():
        for dark in (False, True):
            form = f"{name}{'-dark' if dark else ''}"
            browser.shape(width, height, dark=dark)
            browser.open(f"http://{server.admin_address}/")
            browser.wait_until("document.querySelectorAll('#ids tbody tr').length === 10")
            # It has the last minutes at once, and goes on by itself.
            drawn = "document.querySelector('[data-plot=calls] path.a').getAttribute('d')"
            first = browser.value(drawn)
            browser.wait_until(f"{drawn} !== {json.dumps(first)}")
            checks.that(first.count("L") >= 5, f"{form}: the plot begins with what was before the page")
            checks.equal(browser.value("document.documentElement.scrollWidth"), width, f"{form}: the page's width")
            wider = browser.value(
                "[...document.querySelectorAll('main *')].filter((e) => e.getBoundingClientRect().right > innerWidth)"
                ".length"
            )
            checks.equal(wider, 0, f"{form}: elements that reach over the edge")
            brightness = browser.value(BRIGHTNESS)
            ground, ink = brightness["ground"], brightness["ink"]
            checks.that((ground < 0.1) == dark and (ground > 0.8) != dark, f"{form}: the ground's brightness {ground}")
            for what, value in ink.items():
                contrast = (max(ground, value) + 0.05) / (min(ground, value) + 0.05)
                checks.that(contrast >= 4.5, f"{form}: the contrast of {what} is {contrast:.1f}")
            unnamed = browser.value(
                "[...document.querySelectorAll('svg')].filter((e) => !/: now|nothing yet/.test(e.getAttribute('aria-label')))"
                ".length"
            )
            checks.equal(unnamed, 0, f"{form}: plots without a description")
            browser.screenshot(folder / f"status-page-{form}.png")
    browser.shape(*WIDTHS["desktop"], dark=False)
    browser.screenshot(folder / "status-page.png", height=980)


# The relative luminance of the page's colours, as WCAG defines it.
BRIGHTNESS = """(() => {
  const luminance = (color) => {
    const [r, g, b] = color.match(/[\\d.]+/g).map((part) => {
      const share = part / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const style = (selector) => getComputedStyle(document.querySelector(selector));
  const ink = {};
  for (const selector of ["h1", "h2", ".now b", ".also", ".facts dt", "td", "th", "footer p", "footer a"]) {
    ink[selector] = luminance(style(selector).color);
  }
  return { ground: luminance(style("body").backgroundColor), ink };
})()"""


def check_silence(checks: Checks, server: Server, browser: Browser) -> None:
    """A page whose server is gone says so, and goes on when it is back. Its complaints are wanted ones."""
    complaints = list(browser.complaints)
    server.kill()
    browser.wait_until("document.querySelector('#state').dataset.state === 'silent'")
    checks.that(browser.value("!document.querySelector('#notice').hidden"), "a page without a server says so")
    server.start()
    browser.wait_until("document.querySelector('#state').dataset.state === 'serving'")
    checks.that(browser.value("document.querySelector('#notice').hidden"), "the page goes on by itself")
    browser.complaints[:] = complaints


def load(server: Server, seconds: float) -> "subprocess.Popen[bytes]":
    """A load in the background."""
    command = [str(release_binary()), "load", "--addr", server.address, "--rate", str(RATE), "--mix", MIX]
    command += ["--writes", "--duration", f"{seconds:.0f}s", "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, env=clean_environment())


def arguments() -> Any:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path, help="a folder for the pictures")
    parser.add_argument("--seconds", type=int, default=600, help="how long the load runs at most")
    return parser.parse_args()


def main() -> None:
    """All of it, against one server."""
    options = arguments()
    checks = Checks("status_page_check")
    with tempfile.TemporaryDirectory() as temporary, Server("--sample", str(SAMPLE)) as server, Browser() as browser:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        running = load(server, options.seconds)
        try:
            checks.section("numbers")
            check_numbers(checks, server, browser)
            checks.section("tables")
            check_tables(checks, browser)
            checks.section("looks")
            check_looks(checks, server, browser, folder)
        finally:
            running.kill()
            running.wait()
        checks.section("a server that is gone")
        check_silence(checks, server, browser)
        checks.equal(browser.complaints, [], "what the browser complains of")
    checks.finish()


if __name__ == "__main__":
    main()
