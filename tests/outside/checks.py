"""Counts checks, prints those that failed, and closes with a line that CI reads."""

import sys
import time
from collections.abc import Callable

# How long something that must come may take: so long that only what hangs takes longer, also on a machine with other work.
PATIENCE_SECONDS = 60.0


def eventually(is_so: Callable[[], bool], patience_seconds: float = PATIENCE_SECONDS) -> bool:
    """Whether it is so, soon."""
    deadline = time.monotonic() + patience_seconds
    while not is_so():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def whole_lines(printed: str) -> list[str]:
    """The lines of what another process prints meanwhile, of which the last may be there in part."""
    return printed.split("\n")[:-1]


class Checks:
    """The results of one script. Texts must never hold personal data."""

    def __init__(self, name: str, quiet: bool = False) -> None:
        self.name = name
        # For a control, which is to fail.
        self._quiet = quiet
        self.passed = 0
        self.failed = 0
        self._started = time.monotonic()

    def that(self, holds: bool, what: str) -> bool:
        """Notes one check; a failed one is printed at once."""
        if holds:
            self.passed += 1
        else:
            self.failed += 1
            if not self._quiet:
                print(f"FAILED: {what}", flush=True)
        return holds

    def equal(self, actual: object, expected: object, what: str) -> bool:
        """A check of equality that shows both sides: only for counts, codes and test data."""
        return self.that(actual == expected, f"{what}: {actual!r} instead of {expected!r}")

    def section(self, title: str) -> None:
        """Says what comes next."""
        print(f"{time.monotonic() - self._started:6.1f} s  {title}", flush=True)

    def finish(self) -> None:
        """Prints the totals and ends the process: 0 only when checks were made and all held."""
        print(f"{self.name}: {self.passed} passed, {self.failed} failed", flush=True)
        sys.exit(0 if self.passed and not self.failed else 1)
