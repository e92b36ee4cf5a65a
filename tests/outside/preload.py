"""Libraries of a few lines of C that change how the server sees its machine: slow or lying disks, a fast clock."""

import subprocess
from pathlib import Path

HERE = Path(__file__).parent


def build(scratch: Path, name: str) -> Path:
    """Compiles `name`.c of this folder."""
    library = scratch / f"{name}.so"
    source = HERE / f"{name}.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


def preloaded(scratch: Path, *names: str, **settings: str) -> dict[str, str]:
    """The environment of a server before which these libraries are loaded."""
    libraries = [str(build(scratch, name)) for name in names]
    return {"LD_PRELOAD": ":".join(libraries)} | settings
