"""What `codecell doctor --attack` prints."""

import json
from collections import Counter
from typing import TYPE_CHECKING

import anyio
import click

from codecell.cli.tables import plain, show
from codecell.errors import ConfigurationError, RequestError

if TYPE_CHECKING:
    from codecell.attack.catalogue import Verdict
    from codecell.settings import Settings

COLOURS = {"held": "green", "broken": "bold red", "not applicable": "yellow"}


def attack(settings: "Settings", language: str, caller: str, *, as_json: bool) -> int:
    """Try every wall in a caller's cells of a language; return 1 when one is missing, else 0."""
    from codecell.attack.catalogue import State
    from codecell.audit.witness import administration

    try:
        settings.table.find(language)
    except RequestError as error:
        raise ConfigurationError(str(error)) from error
    with administration(settings, "doctor.attack", language=language):
        verdicts = anyio.run(_all, settings, language, caller)
    broken = [verdict for verdict in verdicts if verdict.state is State.BROKEN]
    if as_json:
        rows = [
            {
                "id": v.id, "wall": v.probe.wall, "asks": v.probe.asks,
                "severity": _severity(v), "verdict": v.state.value, "detail": v.detail,
            }
            for v in verdicts
        ]  # fmt: skip
        click.echo(json.dumps({"ok": not broken, "language": language, "probes": rows}, indent=2))
    else:
        show(
            ("verdict", "probe", "what was tried", "wall", "severity", "detail"),
            [
                (
                    f"[{COLOURS[v.state.value]}]{v.state.value}[/]", v.id, plain(v.probe.asks),
                    v.probe.wall, _severity(v), plain(v.detail),
                )
                for v in verdicts
            ],
        )  # fmt: skip
        counted = Counter(verdict.state.value for verdict in verdicts)
        click.echo(", ".join(f"{number} {state}" for state, number in counted.items()))
    return 1 if broken else 0


def _severity(verdict: "Verdict") -> str:
    return "critical" if verdict.probe.critical else "major"


async def _all(settings: "Settings", language: str, caller: str) -> "list[Verdict]":
    from codecell.attack.assault import opened

    async with opened(settings, language, caller) as assault:
        return await assault.all()
