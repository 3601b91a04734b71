"""The job store without its shell: commands in, commits out, on whatever storage it is given."""

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

from batchyard.domain.errors import BatchyardError
from batchyard.domain.jobs import JobKey
from batchyard.domain.values import value_class
from batchyard.jobstore.effects import Committed
from batchyard.jobstore.group import Group
from batchyard.jobstore.memory import Memory
from batchyard.jobstore.moves import Numbers
from batchyard.rpc.log_context import Request, job_fields, request_fields
from batchyard.storage.jobs import JobWriter, StorageError

T = TypeVar("T")

_log = logging.getLogger(__name__)


@value_class(frozen=True, slots=True)
class Command:
    """Something that a call wants done in a group."""

    act: Callable[[Group], object]
    """Calls one method of the group; what it returns or raises is the call's answer."""
    keys: tuple[JobKey, ...] = ()
    """Jobs that it names, to be loaded together with those of the others."""
    alone: bool = False
    """It must see the tables as they are, so it gets a group of its own."""
    request: Request | None = None
    """In whose course it is wanted."""
    size: int = 1
    """How many commands it stands for."""

    def log_fields(self) -> dict[str, object]:
        """Return the fields of a line that is logged about it."""
        about = job_fields(self.keys[0].job_id) if len(self.keys) == 1 else {}
        return {**about, **request_fields(self.request)}


class CommandError(Exception):
    """A command hit an error of ours; it has had no effect."""


@value_class(frozen=True, slots=True)
class GroupResult:
    """A commit and, for each command in order, what it returned or the error that it raised."""

    committed: Committed
    answers: list[object | BatchyardError | CommandError]


def each(acts: Sequence[Callable[[Group], T]]) -> Callable[[Group], list[T | BatchyardError]]:
    """Return what does many things in a group, each as a command for itself: what one raises is its own answer."""

    def act(group: Group) -> list[T | BatchyardError]:
        return [_outcome(one, group) for one in acts]

    return act


def _outcome(act: Callable[[Group], T], group: Group) -> T | BatchyardError:
    try:
        return act(group)
    except BatchyardError as error:
        return error


def run_group(core: "JobStoreCore", commands: Sequence[Command], now_ms: int) -> GroupResult:
    """Run commands in one transaction.

    One that raises a BatchyardError fails alone. One that hits an error of ours may have left traces: the group is run
    again without it. Raises what the storage raises; then nothing is known of any command, and the core must be made
    anew.
    """
    failed: dict[int, CommandError] = {}
    while True:
        keys = {key for command in commands for key in command.keys}
        group = Group(core.storage, core.numbers, core.memory, now_ms, keys)
        answers: list[object | BatchyardError | CommandError] = []
        for index, command in enumerate(commands):
            if index in failed:
                answers.append(failed[index])
                continue
            try:
                answers.append(command.act(group))
            except BatchyardError as error:
                answers.append(error)
            except StorageError:
                raise
            except Exception as error:
                _log.exception(
                    "a command failed in the job store; the others of its group go on", extra=command.log_fields()
                )
                failed[index] = CommandError(str(error))
                break
        else:
            return GroupResult(group.commit(), answers)


class JobStoreCore:
    """A writer that has begun its epoch. Made anew when a commit has failed."""

    def __init__(self, storage: JobWriter) -> None:
        self.storage = storage
        self.counters = storage.begin_epoch()
        self.numbers = Numbers(self.counters, storage.reserved_vcpus())
        self.memory = Memory()
