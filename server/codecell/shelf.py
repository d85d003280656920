"""The cells of one kind and the decisions about them: how many to keep, whom to serve; no I/O.

How many are kept follows use: a caller that had to wait raises the target, a period in which cells
were left over lowers it, between a floor and a ceiling.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio

from codecell.link import Link
from codecell.model import CellSpec

if TYPE_CHECKING:
    from codecell.errors import SandboxError


class Waiter:
    """A caller that waits for a cell."""

    def __init__(self, caller: str) -> None:
        self.caller = caller
        self.served = anyio.Event()
        self.link: Link | None = None
        self.error: SandboxError | None = None


@dataclass(slots=True, eq=False)
class Shelf:
    """The cells of one kind.

    Attributes:
        floor, ceiling: the least and the most spare cells.
        target: how many spares are kept now.
        ready: cells that nobody has used, longest ready first.
        kept: cells that a caller has used and may use again, most lately used last.
        starting: cells that are being made.
        recycling: used cells that are being wiped for their caller.
        dead: cells that ended while they waited; whoever owns the shelf discards them.
        low: fewest spares left over since the last period began.
        resting: after a failure spares wait a while; callers never do.
    """

    spec: CellSpec
    floor: int
    ceiling: int
    target: int
    ready: deque[Link] = field(default_factory=deque)
    kept: list[Link] = field(default_factory=list)
    waiters: deque[Waiter] = field(default_factory=deque)
    starting: int = 0
    recycling: int = 0
    dead: list[Link] = field(default_factory=list)
    failures: int = 0
    resting: bool = False
    low: int = 0
    used: bool = False

    def take(self, caller: str) -> Link | None:
        """Take the cell that serves a caller best: one of its own, else a new one."""
        self.used = True
        for link in reversed(self.kept):
            if link.caller == caller:
                self.kept.remove(link)
                if link.usable:
                    return link
                self.dead.append(link)
        while self.ready:
            link = self.ready.popleft()
            if link.usable:
                self.low = min(self.low, len(self.ready))
                return link
            self.dead.append(link)
        self.low = 0
        self.target = min(self.target + 1, self.ceiling)
        return None

    def waiter_for(self, link: Link) -> Waiter | None:
        """Take the longest waiting caller that this cell may serve off the queue."""
        for waiter in self.waiters:
            if link.caller in (None, waiter.caller):
                self.waiters.remove(waiter)
                return waiter
        return None

    def wanted(self) -> int:
        """Count the cells that should be begun now."""
        spares = 0 if self.resting else max(self.target - len(self.ready), 0)
        waiting = max(len(self.waiters) - self.recycling, 0)
        return waiting + spares - self.starting

    def surplus(self) -> Iterator[Link]:
        """Take off the shelf what is more than the target, the longest unused first."""
        while len(self.ready) > self.target:
            yield self.ready.popleft()

    def settle(self) -> None:
        """End a period: give up half of what nobody needed in it."""
        unneeded = self.low if self.used else max(self.low, 1)
        if unneeded:
            self.target = max(self.floor, self.target - (unneeded + 1) // 2)
        self.low = len(self.ready)
        self.used = False

    def idle_bytes(self) -> int:
        """Sum up the memory of the cells that wait."""
        return sum(link.idle_bytes for link in (*self.ready, *self.kept))
