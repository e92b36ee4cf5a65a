"""Python stubs of profilestore.v1, made from proto/ into a temporary folder when imported.

Nothing generated is committed, so the stubs can never be older than the proto.
"""

import atexit
import importlib
import shutil
import sys
import tempfile
from pathlib import Path

from grpc_tools import _proto as bundled_protos
from grpc_tools import protoc

REPOSITORY = Path(__file__).resolve().parents[2]
PUBLIC_PROTOS = REPOSITORY / "proto" / "profilestore" / "v1"


def _generate() -> str:
    out = tempfile.mkdtemp(prefix="profilestore-stubs-")
    atexit.register(shutil.rmtree, out, ignore_errors=True)
    well_known_types = str(Path(next(iter(bundled_protos.__path__))))
    arguments = [
        "protoc",
        f"-I{REPOSITORY / 'proto'}",
        f"-I{well_known_types}",
        f"--python_out={out}",
        f"--grpc_python_out={out}",
        *(str(path) for path in sorted(PUBLIC_PROTOS.glob("*.proto"))),
    ]
    if protoc.main(arguments) != 0:
        raise SystemExit("the proto files do not compile")
    return out


FOLDER = _generate()
sys.path.insert(0, FOLDER)

pb = importlib.import_module("profilestore.v1.profile_service_pb2")
service = importlib.import_module("profilestore.v1.profile_service_pb2_grpc")
Profile = importlib.import_module("profilestore.v1.profile_pb2").Profile
admin_pb = importlib.import_module("profilestore.v1.admin_service_pb2")
admin_service = importlib.import_module("profilestore.v1.admin_service_pb2_grpc")
