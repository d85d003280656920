"""Many calls at once on a small pool: is one lost, is the order fair, how long is the wait."""

import secrets
import time
from typing import Any

import anyio

from benchmarks.server import Served
from benchmarks.stats import summary_ms


async def burst(served: Served, count: int) -> dict[str, Any]:
    """Send `count` calls at once, each with a nonce that must come back in its own answer."""
    order: list[int] = []
    waits: list[float] = []
    lost: list[int] = []
    started = time.perf_counter()

    async def one(index: int) -> None:
        nonce = secrets.token_hex(8)
        try:
            result = await served.execute("python", f"print('{nonce}')")
        except Exception:  # noqa: BLE001  a call without a result is what is looked for
            lost.append(index)
            return
        waits.append(time.perf_counter() - started)
        order.append(index)
        if result["stdout"] != nonce + "\n":
            lost.append(index)

    async with anyio.create_task_group() as tasks:
        for index in range(count):
            tasks.start_soon(one, index)
    moved = [abs(place - index) for place, index in enumerate(order)]
    return {
        "calls": count,
        "lost": len(lost),
        "largest_displacement": max(moved, default=0),
        "mean_displacement": round(sum(moved) / max(len(moved), 1), 2),
        "all_done_s": round(time.perf_counter() - started, 3),
        "wait": summary_ms(waits),
    }
