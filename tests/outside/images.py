"""Small disks: ext4 images behind loop devices, and copies of them as a power cut would leave them. Needs root and loop devices."""

import subprocess
from pathlib import Path

# Nobody writes to a disk that is copied, but for what the kernel had begun, which ends.
COPIES = 50


class Mount:
    """An ext4 image, mounted while the block runs."""

    def __init__(self, image: Path, folder: Path) -> None:
        self._image = image
        self._folder = folder

    def __enter__(self) -> Path:
        self._folder.mkdir(exist_ok=True)
        run("mount", "-o", "loop", self._image, self._folder)
        return self._folder

    def __exit__(self, *_: object) -> None:
        run("umount", self._folder)


def run(*command: str | Path) -> None:
    """Runs a command that must succeed."""
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)


def mounts_work(scratch: Path) -> bool:
    """Whether this process may mount an image."""
    image = scratch / "probe.img"
    try:
        make_image(image, 16 * 1024 * 1024)
        with Mount(image, scratch / "probe"):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def make_image(image: Path, size: int) -> None:
    """An empty filesystem in a sparse file."""
    image.unlink(missing_ok=True)
    with image.open("wb") as file:
        file.truncate(size)
    run("mkfs.ext4", "-q", image)


def copy_of_one_moment(image: Path, mounted: Path, copy: Path) -> None:
    """Copies an image that is mounted and that no program writes to. What the kernel writes while it is copied could come into the
    copy without what it wrote before: then it is copied again."""
    statistics = Path("/sys/block") / _device(mounted) / "stat"
    for _ in range(COPIES):
        before = _written(statistics)
        # A loop device that is still let go of keeps the old file, and is not taken for the new one.
        copy.unlink(missing_ok=True)
        run("cp", "--sparse=always", image, copy)
        if _written(statistics) == before:
            return
    raise AssertionError(f"{mounted} does not come to rest")


def _device(mounted: Path) -> str:
    """The block device of a mount."""
    folder = str(mounted.resolve())
    for line in Path("/proc/mounts").read_text().splitlines():
        source, target, *_ = line.split()
        if target == folder:
            return Path(source).name
    raise AssertionError(f"nothing is mounted on {folder}")


def _written(statistics: Path) -> tuple[int, int]:
    """How many writes a block device has made, and how many are under way."""
    fields = statistics.read_text().split()
    return int(fields[4]), int(fields[8])
