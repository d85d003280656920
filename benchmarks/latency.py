"""One call at a time: what the caller waits for, all peers interleaved in shuffled rounds."""

import random
from collections.abc import Awaitable, Callable, Container

import anyio

from benchmarks import peers
from benchmarks.server import Served

Entry = Callable[[], Awaitable[float]]
SEED = 3


def codecell(
    served: Served, language: str, code: str | None = None, *, spares: int = 2, calm_s: float
) -> Entry:
    """A warm call through MCP; the time until the pool is full again is not measured."""

    async def call() -> float:
        elapsed = await served.timed(language, code or peers.PROGRAMS[language])
        await served.settle(language, spares, calm_s=calm_s)
        return elapsed

    return call


def step(served: Served, language: str) -> Entry:
    """A call in one live session: its cell and its interpreter are there."""

    async def call() -> float:
        return await served.timed(language, peers.PROGRAMS[language], session_id="benchmark")

    return call


def blocking(peer: peers.Peer, calm_s: float = 0.0) -> Entry:
    """A peer that is not ours; it blocks this process as it would block its caller."""

    async def call() -> float:
        elapsed = peer()
        if calm_s:
            await anyio.sleep(calm_s)
        return elapsed

    return call


async def rounds(
    entries: dict[str, Entry], count: int, *, seldom: Container[str] = (), lost: dict[str, str]
) -> dict[str, list[float]]:
    """Call every entry once per round, in an order that is shuffled for each round.

    Args:
        seldom: entries that take part in every fourth round only.
        lost: gets the entries that failed, with the reason; the others go on without them.
    """
    order = list(entries)
    shuffle = random.Random(SEED).shuffle
    samples: dict[str, list[float]] = {name: [] for name in order}
    for index in range(-1, count):  # the first call of each is not counted
        shuffle(order)
        for name in list(order):
            if index >= 0 and index % 4 and name in seldom:
                continue
            try:
                elapsed = await entries[name]()
            except Exception as error:  # noqa: BLE001  the rest is worth having
                lost[name] = f"failed in round {index}: {error!r}"[:300]
                order.remove(name)
                continue
            if index >= 0:
                samples[name].append(elapsed)
    return {name: values for name, values in samples.items() if values}


async def back_to_back(served: Served, language: str, count: int) -> list[float]:
    """Call without any pause: the pool runs dry and what is seen is the rate of new cells."""
    return [await served.timed(language, peers.PROGRAMS[language]) for _ in range(count)]
