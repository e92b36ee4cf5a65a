"""The real input: Debian's maintainers from `apt-cache dumpavail`, and what awk counts in it."""

import hashlib
import os
import re
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from stubs import Profile

AWK_PROGRAM = Path(__file__).with_name("maintainers.awk")
IN_BRACKETS = re.compile(r"([^<>]*)<([^<>]*)>")
MAX_NAME_BYTES = 256


@dataclass
class Maintainer:
    """What the dump says about one address."""

    email: str
    name: str
    packages: int = 0
    sections: Counter[str] = field(default_factory=Counter)

    def profile(self) -> Profile:
        """The profile to store: nothing in it depends on when it is made."""
        return Profile(
            id=profile_id(self.email),
            email=self.email,
            display_name=self.name.encode()[:MAX_NAME_BYTES].decode(errors="ignore"),
            attributes={
                "package_count": str(self.packages),
                "sections": ",".join(sorted(self.sections)),
                "main_section": self.sections.most_common(1)[0][0] if self.sections else "",
            },
        )


def profile_id(email: str) -> str:
    """The id of an address: a hash, the same for all spellings that the store folds together."""
    return hashlib.sha256(ascii_lower(email).encode()).hexdigest()[:32]


def ascii_lower(text: str) -> str:
    """Lower case as `LC_ALL=C awk` sees it."""
    return "".join(char.lower() if char.isascii() else char for char in text)


def write_dump(path: Path) -> None:
    """Saves `apt-cache dumpavail`; fetches the package lists first when there are none."""
    _run_to_file(["apt-cache", "dumpavail"], path)
    if path.stat().st_size == 0:
        _update_lists()
        _run_to_file(["apt-cache", "dumpavail"], path)
    if path.stat().st_size == 0:
        raise SystemExit("`apt-cache dumpavail` prints nothing, even after `apt-get update`")


def _update_lists() -> None:
    """Mirrors fail now and then, and on a machine that has just begun apt itself may hold the lock."""
    command = ["apt-get", "-o", "Acquire::Retries=5", "update", "-qq"]
    for patience in (10, 30, 60, 0):
        if subprocess.run(command, stdin=subprocess.DEVNULL).returncode == 0:
            return
        time.sleep(patience)
    raise SystemExit("`apt-get update` fails again and again")


def _run_to_file(command: list[str], path: Path) -> None:
    with path.open("wb") as out:
        subprocess.run(command, check=True, stdout=out, stdin=subprocess.DEVNULL)


@dataclass
class Source:
    """The maintainers by address in lower case, in the dump's order, and what was odd about the fields."""

    maintainers: dict[str, Maintainer] = field(default_factory=dict)
    fields: int = 0
    several: int = 0
    without_brackets: int = 0
    not_ascii: int = 0


def read_dump(path: Path) -> Source:
    """Reads the dump's stanzas. A field may hold several `Name <address>`; one without brackets is taken
    whole, for the server to judge. Addresses that are not ASCII are left out: awk cannot fold them."""
    source = Source()
    maintainer_field, section = "", ""
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.startswith("Maintainer:"):
                maintainer_field = line.removeprefix("Maintainer:").strip()
            elif line.startswith("Section:"):
                section = line.removeprefix("Section:").strip()
            elif line == "\n":
                _add_package(source, maintainer_field, section)
                maintainer_field, section = "", ""
    _add_package(source, maintainer_field, section)
    return source


def _add_package(source: Source, maintainer_field: str, section: str) -> None:
    if not maintainer_field:
        return
    source.fields += 1
    found = IN_BRACKETS.findall(maintainer_field)
    source.several += len(found) > 1
    source.without_brackets += not found
    seen: set[str] = set()
    for name, address in found or [("", maintainer_field)]:
        address = address.strip(" \t")
        key = ascii_lower(address)
        if not address or key in seen:
            continue
        seen.add(key)
        if not address.isascii():
            source.not_ascii += 1
            continue
        name = "".join(char for char in name if char.isprintable()).strip(' ,"')
        maintainer = source.maintainers.setdefault(key, Maintainer(address, name))
        maintainer.packages += 1
        if section:
            maintainer.sections[section] += 1


@dataclass
class AwkCounts:
    """What awk counted, without the addresses that were left out."""

    total: int = 0
    exact: dict[str, int] = field(default_factory=dict)
    subtree: dict[str, int] = field(default_factory=dict)
    domains: dict[str, int] = field(default_factory=dict)
    packages: dict[str, int] = field(default_factory=dict)


def count_with_awk(dump: Path, ask: list[str], left_out: set[str]) -> AwkCounts:
    """Runs maintainers.awk over the dump."""
    left_out_path = dump.with_name("left-out.txt")
    left_out_path.write_text("".join(f"{address}\n" for address in sorted(left_out)))
    done = subprocess.run(
        ["awk", "-v", f"ask={' '.join(ask)}", "-f", str(AWK_PROGRAM), str(left_out_path), str(dump)],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"LC_ALL": "C"},
    )
    counts = AwkCounts()
    tables = {
        "exact": counts.exact,
        "subtree": counts.subtree,
        "domain": counts.domains,
        "address": counts.packages,
    }
    for line in done.stdout.splitlines():
        kind, *rest = line.split("\t")
        if kind == "total":
            counts.total = int(rest[0])
        else:
            tables[kind][rest[0]] = int(rest[1])
    return counts
