"""Importing in less time: most of the time until `batchyard up` is ready goes into that."""

import gc
import importlib
import importlib.util
import os
import sys
from types import ModuleType
from typing import Final

_UNUSED: Final = ("google.protobuf.internal.python_message",)
"""What packages of others import and do not use: protobuf its own replacement in Python, where it has its C one."""


def load(name: str) -> ModuleType:
    """Import a module of ours that comes with gRPC."""
    # Read when gRPC is imported. Its C core would write lines of its own form among our log's, most of them about
    # forks; ours are followed by an exec at once.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
    # Next to nothing of what modules make at their import is garbage.
    gc.disable()
    try:
        for unused in _UNUSED:
            _put_off(unused)
        return importlib.import_module(name)
    finally:
        gc.enable()


def _put_off(name: str) -> None:
    """Have a module be loaded when first something of it is used."""
    if name in sys.modules:
        return
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        return
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    package, _, own_name = name.rpartition(".")
    setattr(sys.modules[package], own_name, module)
