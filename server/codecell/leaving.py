"""Leave in time: on the first signal what runs is cancelled, on a second the process ends."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

import anyio
import structlog
from anyio.abc import TaskStatus

log = structlog.get_logger()

# Clients give a server two seconds after closing its stdin, people a little more.
LEAVE_WITHIN_S = 2.2
ANSWER_S = 0.05  # for answers to reach the wire, once there are any


async def on_signal(
    leave: Callable[[int], None], *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    """Wait for SIGTERM or SIGINT and call `leave` once, with the exit status.

    A second signal ends the process at once; its cells notice and end by themselves.
    """
    asked = False
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for number in signals:
            if asked:
                os._exit(128 + number)
            asked = True
            within(LEAVE_WITHIN_S, 128 + number)
            leave(128 + number)


def now(status: int) -> NoReturn:
    """End the process when all is closed: taking the interpreter apart takes long under load."""
    with suppress(OSError, ValueError):  # nobody may be there to read
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def within(seconds: float, status: int) -> None:
    """End the process after `seconds`, whatever then still blocks; its cells end with it."""

    def leave() -> None:
        log.error("shutdown took too long; leaving at once", seconds=seconds)
        os._exit(status)

    timer = threading.Timer(seconds, leave)
    timer.daemon = True
    timer.start()
