"""The cells of one kind and the decisions about them: how many to keep, whom to serve; no I/O.

How many spares are kept follows use: a caller that had to wait raises the target, a period in which
some were left over lowers it, between a floor and a ceiling. A caller's own cells come on top.
"""

from collections import Counter, deque
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

    def serve(self, link: Link) -> None:
        """Hand a cell over."""
        self.link = link
        self.served.set()


@dataclass(slots=True, eq=False)
class Shelf:
    """The cells of one kind.

    Attributes:
        floor, ceiling: the least and the most spare cells.
        target: how many spares are kept now.
        ready: cells that nobody has used, longest ready first.
        kept: cells that a caller has used and may use again, most lately used last.
        starting: cells that are being made.
        recycling: how many used cells are being wiped, by the caller they belong to.
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
    recycling: Counter[str] = field(default_factory=Counter)
    dead: list[Link] = field(default_factory=list)
    failures: int = 0
    resting: bool = False
    low: int = 0
    used: bool = False

    def take(self, caller: str) -> Link | None:
        """Take the cell that serves a caller best: one of its own, else a new one.

        One of its own that is being wiped is worth the wait of some milliseconds: to make another
        in the place of a new one takes a hundred times the processor time.
        """
        self.used = True
        for link in reversed(self.kept):
            if link.caller == caller:
                self.kept.remove(link)
                if link.usable:
                    return link
                self.dead.append(link)
        if self.recycling[caller] > sum(waiter.caller == caller for waiter in self.waiters):
            return None
        if (new := self._new()) is not None:
            return new
        self.low = 0
        if self.spec.reuse == "never":  # else the one that is made now stays with its caller
            self.target = min(self.target + 1, self.ceiling)
        return None

    def _new(self) -> Link | None:
        while self.ready:
            link = self.ready.popleft()
            if link.usable:
                self.low = min(self.low, len(self.ready))
                return link
            self.dead.append(link)
        return None

    def left_over(self) -> Iterator[tuple[Waiter, Link]]:
        """Pair the callers whose cell could not be wiped with new ones, as far as these reach."""
        while self._uncovered() > 0 and (link := self._new()) is not None:
            yield self.waiters.popleft(), link

    def _uncovered(self) -> int:
        """Count the callers that wait and that no cell of their own is being wiped for."""
        waiting = Counter(waiter.caller for waiter in self.waiters)
        return (waiting - self.recycling).total()

    def waiter_for(self, link: Link) -> Waiter | None:
        """Take the longest waiting caller that this cell should serve off the queue."""
        if link.caller is None and not self._uncovered() and len(self.ready) < self.target:
            return None
        for waiter in self.waiters:
            if link.caller in (None, waiter.caller):
                self.waiters.remove(waiter)
                return waiter
        return None

    def wanted(self) -> int:
        """Count the cells that should be begun now."""
        spares = 0 if self.resting else max(self.target - len(self.ready), 0)
        return self._uncovered() + spares - self.starting

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
