"""What PID 1 of a container owes to others: to reap orphans, and to obey signals as any other process does."""

import os
import signal
from contextlib import suppress
from typing import Final

_PASSED_ON: Final = frozenset(
    {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH}
)
_SENT_BY_A_PROCESS: Final = 0
"""The largest `si_code` of a signal that somebody sent; a terminal's goes to the whole group without our help."""


def be_init_if_first() -> None:
    """Return at once, unless this is PID 1: then in a child, which ends with its exit code what this process is."""
    if os.getpid() != 1:
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*_PASSED_ON, signal.SIGCHLD})
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    while True:
        came = signal.sigwaitinfo({*_PASSED_ON, signal.SIGCHLD})
        if came.si_signo == signal.SIGCHLD:
            _reap(child)
        elif came.si_code <= _SENT_BY_A_PROCESS:
            with suppress(ProcessLookupError):
                os.kill(child, came.si_signo)


def _reap(child: int) -> None:
    """Reap all that have ended; end this process when the child has."""
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)
        if pid == 0:
            return
