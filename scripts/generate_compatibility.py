#!/usr/bin/env python3
"""Write docs/compatibility.md: which members of AWS Batch's and CloudWatch Logs' APIs have which effect here.

The operations and members are botocore's, what of them exists here is in the descriptors of the public services, and
what becomes of each is said in compatibility/members.toml. A member that is there and of which nothing is said, an
entry for nothing, a test that does not exist, a member of the 2016 API that is missing: each is an error. With --check
nothing is written, and the exit code says whether the page is current.
"""

import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

import botocore
import botocore.session
from botocore.model import ListShape, MapShape, OperationModel, Shape, StructureShape
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor

from batchyard.api.common.v1 import annotations_pb2
from batchyard.gateway.transcoder import member_name
from batchyard.gateway.upstreams import PUBLIC_SERVICES

ROOT: Final = Path(__file__).resolve().parent.parent
PAGE: Final = ROOT / "docs" / "compatibility.md"
DATA: Final = ROOT / "scripts" / "compatibility"

STATUSES: Final = {
    "acted": "acted on",
    "stored": "stored and returned",
    "fails": "stored, a job with it fails",
    "later": "stored, its jobs are refused",
    "ignored": "without effect",
    "refused": "refused",
}
NOT_THERE: Final = "not there"
OTHERS: Final = "*"
WHOLE: Final = "*"


@dataclass(frozen=True, slots=True)
class Entry:
    """What becomes of a member."""

    status: str
    test: str = ""
    is_whole: bool = False
    """It says so of everything in the member, too."""


@dataclass(slots=True)
class Statements:
    """The entries of the data file, and which of them were asked for."""

    tables: dict[tuple[str, ...], dict[str, str]]
    tests: dict[str, str]
    profiles: list[dict[str, str]]
    mistakes: list[dict[str, str]]
    used: set[tuple[tuple[str, ...], str]] = field(default_factory=set)

    @classmethod
    def read(cls) -> "Statements":
        """Read the data file."""
        data: dict[str, Any] = tomllib.loads((DATA / "members.toml").read_text())
        tables: dict[tuple[str, ...], dict[str, str]] = {
            ("shape", name): table for name, table in data["shapes"].items()
        }
        for operation, sides in data["operations"].items():
            for side, table in sides.items():
                tables[operation, side] = table
        return cls(tables, data["tests"], data["profiles"], data["mistakes"])

    def entry(self, place: tuple[str, ...], member: str) -> Entry:
        """Return what is said of a member; exit if nothing is, or if it names a test that does not exist."""
        table = self.tables.get(place, {})
        name = member if member in table else OTHERS
        if name not in table:
            raise SystemExit(
                f"{'.'.join(place)}.{member} is in the protos: say what becomes of it in compatibility/members.toml"
            )
        self.used.add((place, name))
        word, _, test = table[name].partition(" ")
        status = word.removesuffix(WHOLE)
        if status not in STATUSES:
            raise SystemExit(f"members.toml has no such status: {table[name]}")
        if status == "acted" and not test:
            raise SystemExit(f"members.toml names no test that shows {'.'.join(place)}.{member}")
        return Entry(STATUSES[status], self.checked(test) if test else "", word.endswith(WHOLE))

    def unused(self) -> list[str]:
        """Return the entries that are for nothing."""
        known = {(place, name) for place, table in self.tables.items() for name in table}
        return sorted(f"{'.'.join(place)}.{name}" for place, name in known - self.used)

    def checked(self, test: str) -> str:
        """Return a test as the page shows it; exit if there is none of this name."""
        alias, _, function = test.partition("::")
        path = self.tests.get(alias, "")
        if not path or f"def {function}(" not in _text_of(path):
            raise SystemExit(f"members.toml names a test that does not exist: {test}")
        return f"`{Path(path).stem}::{function}`"


@cache
def _text_of(path: str) -> str:
    return (ROOT / path).read_text()


class Page:
    """The page in the making."""

    def __init__(self, statements: Statements) -> None:
        self._statements = statements
        self._methods: dict[str, MethodDescriptor] = {
            method.name: method for service in PUBLIC_SERVICES for method in service.methods
        }
        self._shapes: dict[str, tuple[StructureShape, Descriptor]] = {}
        """Those that operations lead to, in the order in which they are met."""
        self._counts = dict.fromkeys((*STATUSES.values(), NOT_THERE), 0)
        self.statuses: dict[tuple[str, str, str], str] = {}
        """By operation or "shape", side or name of the shape, and member."""

    def text(self) -> str:
        """Return the whole page."""
        service = botocore.session.get_session().get_service_model("batch")
        there, missing = [], []
        for name in service.operation_names:
            method = self._methods.get(name)
            if method is None:
                missing.append(name)
            else:
                there.append("\n".join(self._operation(service.operation_model(name), method)))
        shapes = self._shapes_from(0)
        counts = "\n".join(f"| {status} | {count} |" for status, count in self._counts.items())
        logs = botocore.session.get_session().get_service_model("logs")
        log_names = [name for name in logs.operation_names if self._is_target(f"Logs_20140328.{name}")]
        first = len(self._shapes)
        log_operations = [
            "\n".join(self._operation(logs.operation_model(name), self._methods[name])) for name in log_names
        ]
        return _FRAME.format(
            version=botocore.__version__,
            counts=counts,
            mistakes="\n".join(
                f"| {row['what']} | {self._statements.checked(row['test'])} |" for row in self._statements.mistakes
            ),
            profiles="\n".join(
                f"| {row['what']} | {row['seed']} | {row['aws']} | {self._statements.checked(row['test'])} |"
                for row in self._statements.profiles
            ),
            there=len(there),
            all=len(there) + len(missing),
            missing=", ".join(missing),
            operations="\n".join(there),
            shapes="\n".join(shapes),
            log_names=", ".join(log_names),
            log_operations="\n".join(log_operations),
            log_shapes="\n".join(self._shapes_from(first)),
        )

    def _is_target(self, target: str) -> bool:
        """Tell whether an AWS JSON operation is there."""
        return any(
            method.GetOptions().Extensions[annotations_pb2.aws_json_target] == target
            for method in self._methods.values()
        )

    def _shapes_from(self, number: int) -> list[str]:
        """Return the shapes that were met, from this one on, and those that they lead to."""
        shapes: list[str] = []
        while number + len(shapes) < len(self._shapes):
            name = list(self._shapes)[number + len(shapes)]
            shapes.append("\n".join(self._shape(name, *self._shapes[name])))
        return shapes

    def shape_of(self, shape: Shape | None) -> StructureShape | None:
        """Return the structure that a member's value is made of, if it is."""
        if isinstance(shape, ListShape):
            return self.shape_of(shape.member)
        if isinstance(shape, MapShape):
            return self.shape_of(shape.value)
        return shape if isinstance(shape, StructureShape) else None

    def _operation(self, operation: OperationModel, method: MethodDescriptor) -> Iterator[str]:
        yield f"### {operation.name}\n"
        sides = (
            ("request", operation.input_shape, method.input_type),
            ("response", operation.output_shape, method.output_type),
        )
        for side, shape, descriptor in sides:
            if shape is None or not shape.members:
                continue
            yield f"| {side} | | shown by |\n| --- | --- | --- |"
            yield from self._rows((operation.name, side), shape, descriptor)
            yield ""

    def _shape(self, name: str, shape: StructureShape, descriptor: Descriptor) -> Iterator[str]:
        yield f"### {name}\n\n| member | | shown by |\n| --- | --- | --- |"
        yield from self._rows(("shape", name), shape, descriptor)
        yield ""

    def _rows(self, place: tuple[str, str], shape: StructureShape, descriptor: Descriptor) -> Iterator[str]:
        fields: dict[str, FieldDescriptor] = {member_name(found): found for found in descriptor.fields}
        for member, member_shape in shape.members.items():
            found = fields.get(member)
            entry = Entry(NOT_THERE) if found is None else self._statements.entry(place, member)
            self._counts[entry.status] += 1
            self.statuses[(*place, member)] = entry.status
            inner = self.shape_of(member_shape)
            link = ""
            if found is not None and inner is not None and inner.members:
                if entry.is_whole:
                    link = ", with all that is in it"
                elif found.message_type is not None:
                    self._meet(inner, found.message_type)
                    link = f", see [{inner.name}](#{inner.name.lower()})"
            yield f"| `{member}`{link} | {entry.status} | {entry.test} |"

    def _meet(self, shape: StructureShape, message: Descriptor) -> None:
        if message.GetOptions().map_entry:
            value = message.fields_by_name["value"].message_type
            assert value is not None
            message = value
        _, known = self._shapes.setdefault(shape.name, (shape, message))
        if known is not message:
            raise SystemExit(f"{shape.name} is both {known.full_name} and {message.full_name}")


def _missing_of_seed(page: Page) -> list[str]:
    """Return the members of the 2016 API that are not there, or refused."""
    service = botocore.session.get_session().get_service_model("batch")
    missing = []
    for line in (DATA / "seed.txt").read_text().splitlines():
        if line.startswith("#") or line.count(" ") < 2:
            continue
        operation, side, path = line.split(" ")
        model = service.operation_model(operation)
        shape: StructureShape | None = model.input_shape if side == "request" else model.output_shape
        place: tuple[str, str] = (operation, side)
        for member in path.split("."):
            status = page.statuses.get((*place, member), NOT_THERE)
            if shape is None or status in (NOT_THERE, STATUSES["refused"]):
                missing.append(line)
                break
            shape = page.shape_of(shape.members[member])
            if shape is not None:
                place = ("shape", shape.name)
    return missing


_FRAME: Final = """# What of AWS Batch's API does what here

Made by `scripts/generate_compatibility.py` from botocore {version} and the descriptors of this server, with
`scripts/compatibility/members.toml`; not to be edited by hand.

| a member is | when |
| --- | --- |
| acted on | it has the effect that AWS documents, or, in an answer, it says what is so; the test shows it |
| stored and returned | it is checked, kept and given back, and has no effect on any job |
| stored, a job with it fails | it is checked, kept and given back; a job with it fails, as no runtime can do it yet |
| stored, its jobs are refused | it is checked, kept and given back; SubmitJob refuses a definition with it by name |
| without effect | in a request it is accepted and nothing comes of it, in an answer it is always empty |
| refused | a request with it is answered by an error that names it |
| not there | in a request it is passed over, in an answer it never stands |

{there} of {all} operations are there. The others are answered by a `ClientException` that says so: {missing}.

| members | number |
| --- | --- |
{counts}

## The two profiles

Where one request has two meanings, that of the document of 2016 is the default, and `--compat aws` takes today's. What
today's service accepts beyond that document is accepted in both.

| | `--compat seed` | `--compat aws` | shown by |
| --- | --- | --- | --- |
{profiles}

## Where clients and servers go wrong

What is easily made otherwise, and is noticed late:

| | shown by |
| --- | --- |
{mistakes}

## Operations

{operations}
## Shapes

{shapes}
## CloudWatch Logs

{log_names} are there, for what jobs print ([more](logs.md)). The others are answered by an `UnknownOperationException`.

{log_operations}
{log_shapes}"""


def main() -> None:
    """Write the page, or with --check compare it."""
    statements = Statements.read()
    page = Page(statements)
    text = page.text().rstrip() + "\n"
    if unused := statements.unused():
        raise SystemExit("members.toml speaks of what is not there: " + ", ".join(unused))
    if missing := _missing_of_seed(page):
        raise SystemExit("members of the 2016 API are missing: " + "; ".join(missing))
    if "--check" in sys.argv[1:]:
        if not PAGE.exists() or PAGE.read_text() != text:
            raise SystemExit("docs/compatibility.md is not current, run scripts/generate_compatibility.py")
        return
    PAGE.write_text(text)


if __name__ == "__main__":
    main()
