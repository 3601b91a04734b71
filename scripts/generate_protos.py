#!/usr/bin/env python3
"""Generate the Python stubs beside their .proto files.

`buf generate` cannot drive grpc_tools' plugin, so protoc is called here: messages and their types for every file, the
gRPC stubs for the files of services only. Stale output goes first. With --check, nothing is written and the exit code
says whether the committed stubs are current.
"""

import filecmp
import shutil
import sys
import tempfile
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent / "protos"
GENERATED = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")


def _generated(root: Path) -> list[Path]:
    return sorted(path.relative_to(root) for pattern in GENERATED for path in root.rglob(pattern))


def generate(output: Path) -> None:
    """Write the stubs of every .proto under ROOT to the same relative places under output."""
    include = Path(grpc_tools.__file__).parent / "_proto"
    protos = sorted(str(path.relative_to(ROOT)) for path in ROOT.rglob("*.proto"))
    services = [path for path in protos if path.endswith("_service.proto")]
    base = ["protoc", f"-I{ROOT}", f"-I{include}"]
    for arguments in (
        [*base, f"--python_out={output}", f"--mypy_out=quiet:{output}", *protos],
        [*base, f"--grpc_python_out={output}", f"--mypy_grpc_out=quiet:{output}", *services],
    ):
        if protoc.main(arguments) != 0:
            raise SystemExit("protoc failed")


def main() -> None:
    """Generate, or with --check compare."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        generate(fresh)
        if "--check" in sys.argv[1:]:
            old, new = _generated(ROOT), _generated(fresh)
            stale = sorted(set(old) ^ set(new)) + [
                path for path in new if path in old and not filecmp.cmp(fresh / path, ROOT / path, shallow=False)
            ]
            if stale:
                raise SystemExit("generated stubs are not current, run `make proto`: " + ", ".join(map(str, stale)))
            return
        for path in _generated(ROOT):
            (ROOT / path).unlink()
        for path in _generated(fresh):
            shutil.copy(fresh / path, ROOT / path)


if __name__ == "__main__":
    main()
