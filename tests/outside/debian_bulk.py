"""Real input through the command line: Debian's maintainers in by `import`, out by `export`, in and out again.

The input is written by Python, as JSON lines and as CSV; Python's own readers judge the exports, and exports of
equal stores must be equal byte for byte. Prints counts only: addresses and names are personal data.
"""

import csv
import json
import subprocess
import tempfile
from pathlib import Path

from checks import Checks
from debian_source import read_dump, write_dump
from server import Server, clean_environment, release_binary
from stubs import Profile

SOME_REJECTED = 3
COLUMNS = ["id", "email", "display_name", "attributes"]


def run(server: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a command against a server."""
    return subprocess.run(
        [str(release_binary()), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        env=clean_environment({"PROFILESTORE_ADDR": server.address}),
    )


def as_json(profile: Profile, spelling: str) -> dict:
    """A profile in the proto's JSON form, in one of its two spellings."""
    return {
        "id": profile.id,
        "email": profile.email,
        spelling: profile.display_name,
        "attributes": dict(profile.attributes),
    }


def write_json_lines(path: Path, wanted: list[Profile]) -> None:
    """Every second line has the one spelling, the others have the other."""
    with path.open("w", encoding="utf-8") as out:
        for number, profile in enumerate(wanted):
            spelling = "displayName" if number % 2 else "display_name"
            out.write(json.dumps(as_json(profile, spelling), ensure_ascii=number % 3 == 0) + "\n")


def write_csv(path: Path, wanted: list[Profile]) -> None:
    """The same profiles as rows, with the line ends of RFC 4180."""
    with path.open("w", encoding="utf-8", newline="") as out:
        rows = csv.writer(out)
        rows.writerow(COLUMNS)
        for profile in wanted:
            attributes = json.dumps(dict(profile.attributes), indent=1)
            rows.writerow([profile.id, profile.email, profile.display_name, attributes])


def read_json_lines(text: str) -> list[tuple]:
    """What an export in JSON lines holds."""
    found = (json.loads(line) for line in text.splitlines())
    fields = {"id": "", "email": "", "displayName": "", "attributes": {}}
    return [tuple(each.get(name, default) for name, default in fields.items()) for each in found]


def read_csv(text: str) -> list[tuple]:
    """What an export in CSV holds."""
    rows = csv.reader(text.splitlines(keepends=True))
    assert next(rows) == COLUMNS
    return [(*row[:3], json.loads(row[3])) for row in rows]


class RoundTrip:
    """One way of the same profiles through two servers."""

    def __init__(self, checks: Checks, folder: Path, wanted: list[Profile]) -> None:
        self._checks = checks
        self._folder = folder
        self._wanted = wanted
        self.exports: list[tuple[str, str]] = []

    def import_given(self, server: Server, given: Path) -> set[int]:
        """Imports a file, and returns the places of what was refused."""
        done = run(server, "import", str(given), "--json")
        summary = json.loads(done.stdout)
        rejects = given.with_name(given.name + ".rejects")
        lines = rejects.read_text().splitlines() if rejects.exists() else []
        refused = [json.loads(line) for line in lines]
        name = given.name
        code = SOME_REJECTED if refused else 0
        self._checks.equal(done.returncode, code, f"exit code of the import of {name}")
        accounted_for = summary["written"] + len(refused)
        self._checks.equal(accounted_for, len(self._wanted), f"lines of {name} accounted for")
        self._checks.equal(summary["rejected"], len(refused), f"lines of {name} in the file of rejects")
        bad_reasons = sum(not each["reason"].startswith("email ") for each in refused)
        self._checks.equal(bad_reasons, 0, "refusals for something other than an address")
        print(f"  {name}: {summary['written']} written, {len(refused)} refused for their address", flush=True)
        if given.suffix == ".jsonl":
            return {each["line"] - 1 for each in refused}
        ids = {profile.id: place for place, profile in enumerate(self._wanted)}
        return {ids[next(csv.reader([each["text"]]))[0]] for each in refused}

    def check(self, given: Path) -> None:
        """Given file, first server, exports, second server, exports."""
        with Server() as first, Server() as second:
            refused = self.import_given(first, given)
            kept = [each for place, each in enumerate(self._wanted) if place not in refused]
            expected = sorted((p.id, p.email, p.display_name, dict(p.attributes)) for p in kept)
            again = {}
            for form, read in (("jsonl", read_json_lines), ("csv", read_csv)):
                exported = self._folder / f"{given.stem}.exported.{form}"
                done = run(first, "export", "--output", str(exported))
                self._checks.equal(done.returncode, 0, f"exit code of the export to {form}")
                again[form] = exported.read_text(encoding="utf-8")
                same = read(again[form]) == expected
                self._checks.that(same, f"the export to {form} is {given.name}, in the order of ids")
            for form in again:
                exported = self._folder / f"{given.stem}.exported.{form}"
                done = run(second, "import", str(exported), "--on-conflict", "replace")
                self._checks.equal(done.returncode, 0, f"exit code of the import of the export to {form}")
                for other, text in again.items():
                    done = run(second, "export", "--format", other)
                    what = f"the second server's {other} after {form} is the first one's, byte for byte"
                    self._checks.that(done.stdout == text, what)
            self.exports.append((again["jsonl"], again["csv"]))
            for server in (first, second):
                self._checks.equal(server.stop(), 0, "exit code after SIGTERM")


def main() -> None:
    """The maintainers as JSON lines and as CSV."""
    checks = Checks("debian_bulk")
    with tempfile.TemporaryDirectory(prefix="profilestore-debian-bulk-") as name:
        folder = Path(name)
        dump = folder / "available.txt"
        write_dump(dump)
        profiles = (maintainer.profile() for maintainer in read_dump(dump).maintainers.values())
        wanted = list({each.id: each for each in profiles}.values())
        checks.that(len(wanted) > 100, "there are maintainers")
        trips = RoundTrip(checks, folder, wanted)
        for file, write in (("lines.jsonl", write_json_lines), ("rows.csv", write_csv)):
            checks.section(f"{len(wanted)} maintainers as {file}")
            given = folder / file
            write(given, wanted)
            trips.check(given)
        checks.that(trips.exports[0] == trips.exports[1], "both files make the same store")
    checks.finish()


if __name__ == "__main__":
    main()
