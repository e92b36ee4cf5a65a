"""How often sled wrote over what it had freed: each segment of its file begins with its place in all that sled ever wrote.

The layout is in sled 0.34's src/pagecache/logger.rs.
"""

import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

HEADER_BYTES = 20
# sled turns the bits of what it keeps, so that zeros are no header.
LSN_BITS = 0x7FFF_FFFF_FFFF_FFFF
CHECKSUM_BITS = 0xFFFF_FFFF


@dataclass
class Segments:
    """What a sled file came to."""

    # Places for segments in the file.
    places: int
    # How many segments sled has begun since the store was made. Those for which there was no new place took an older one's.
    begun: int

    def again(self) -> int:
        """How many, at least, were written where an older one had been."""
        return max(0, self.begun - self.places)


def segments(sled: Path) -> Segments:
    """Reads the header of each segment of sled's folder."""
    db, segment_bytes = sled / "db", _segment_bytes(sled / "conf")
    places = db.stat().st_size // segment_bytes
    last = 0
    with db.open("rb") as file:
        for place in range(places):
            file.seek(place * segment_bytes)
            header = file.read(HEADER_BYTES)
            checksum, lsn = struct.unpack("<Iq", header[:12])
            if zlib.crc32(header[4:]) != checksum ^ CHECKSUM_BITS:
                # Never written, or on its way when the power was cut.
                continue
            last = max(last, lsn ^ LSN_BITS)
    return Segments(places, last // segment_bytes + 1)


def _segment_bytes(conf: Path) -> int:
    said = re.search(r"segment_size: (\d+)", conf.read_text(errors="replace"))
    assert said, "sled's conf does not say how large its segments are"
    return int(said.group(1))
