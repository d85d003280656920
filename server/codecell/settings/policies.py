"""`[policies.NAME]` and `[callers.NAME]`: what the operator lets whom do.

A policy says only what differs from the general sections. What comes of both is a `Policy`: whole,
frozen, made once with the settings, so that nothing is decided anew for a run.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationError, create_model

from codecell.model import BUILT_IN_SECCOMP, OUR_SECCOMP, Seccomp
from codecell.settings.sections import CEILINGS, LimitSettings, Section

if TYPE_CHECKING:
    from codecell.settings import Settings

DEFAULT = "default"
MAX_PROFILE_BYTES = 1 << 20

PolicyName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]

_given: dict[str, Any] = {
    name: (
        Annotated[info.annotation, *info.metadata] | None,
        Field(None, description=info.description),
    )
    for name, info in LimitSettings.model_fields.items()
}
PolicyLimits: type[Section] = create_model("PolicyLimits", __base__=Section, **_given)
PolicyLimits.__doc__ = "Limits and ceilings that a policy changes; the keys are those of [limits]."


class PolicySettings(Section):
    """One `[policies.NAME]`; what is left out is as in the general sections."""

    languages: tuple[str, ...] | None = Field(
        None, description="Languages that its callers may use; by default every one, [] none"
    )
    limits: PolicyLimits = Field(  # made from LimitSettings above
        PolicyLimits(), description="Keys of [limits] that differ for its callers"
    )
    runtime: str | None = Field(None, description="OCI runtime of its cells")
    reuse: Literal["never", "caller"] | None = Field(
        None, description="As pool.reuse, for its callers"
    )
    seccomp: str | None = Field(
        None,
        description="System call filter: `default`, `no-sockets` (default without any socket but "
        "local ones), or the path of an allow-list in Docker's format",
    )
    sessions: bool = Field(default=True, description="Whether its callers may keep sessions")
    network: Literal["none"] = Field("none", description="There is no other")
    mounts: Literal["none"] = Field("none", description="There is no other")


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Everything that the operator allows a caller; nothing that a request says is in it.

    Attributes:
        name: `default`, or that of `[policies.NAME]`.
        languages: ids that are allowed; None allows every one.
        runtime: OCI runtime; None is the engine's default.
        changed: dotted keys under `policies.NAME` that this policy set itself.
    """

    name: str
    limits: LimitSettings
    languages: frozenset[str] | None
    runtime: str | None
    reuse: Literal["never", "caller"]
    seccomp: Seccomp
    sessions: bool
    changed: frozenset[str] = frozenset()

    def allows(self, language: str) -> bool:
        """Tell whether programs of a language may be run."""
        return self.languages is None or language in self.languages


def whole(name: str, given: PolicySettings, settings: "Settings") -> Policy:
    """Return what a policy and the general sections come to.

    Raises:
        ValueError: a contradiction, with the keys' names.
    """
    where = f"policies.{name}"
    for language in given.languages or ():
        if language not in settings.table:
            raise ValueError(
                f"{where}.languages: unknown language {language!r}; "
                f"known: {', '.join(settings.table)}"
            )
    runtime = given.runtime or settings.engine.runtime
    if given.seccomp is not None and (runtime or "").startswith("runsc"):
        raise ValueError(
            f"{where}.seccomp has no effect under runtime {runtime}, whose own kernel is the wall: "
            "leave it out"
        )
    limits = {key: value for key, value in given.limits if value is not None}
    own = {key for key, value in given if key not in {"limits", "network", "mounts"}}
    changed = {
        key for key in own if getattr(given, key) != PolicySettings.model_fields[key].default
    }
    return Policy(
        name=name,
        limits=_limits(where, limits, settings.limits),
        languages=None if given.languages is None else frozenset(given.languages),
        runtime=runtime,
        reuse=given.reuse or settings.pool.reuse,
        seccomp=_seccomp(where, given.seccomp),
        sessions=given.sessions,
        changed=frozenset(changed | {f"limits.{key}" for key in limits}),
    )


def _limits(where: str, given: dict[str, Any], general: LimitSettings) -> LimitSettings:
    """Lay a policy's limits over the general ones; a lower ceiling lowers the default below it."""
    if not given:
        return general
    values = {**general.model_dump(), **given}
    for default, ceiling in CEILINGS:
        if default not in given and ceiling in given:
            values[default] = min(values[default], values[ceiling])
    try:
        return LimitSettings.model_validate(values)
    except ValidationError as error:
        said = "; ".join(item["msg"].removeprefix("Value error, ") for item in error.errors())
        raise ValueError(f"{where}: {said}") from error


def _seccomp(where: str, given: str | None) -> Seccomp:
    if given is None:
        return OUR_SECCOMP
    if given in BUILT_IN_SECCOMP:
        return Seccomp(name=given)
    path = Path(given)
    built_in = " or ".join(BUILT_IN_SECCOMP)
    if not path.is_absolute():
        raise ValueError(f"{where}.seccomp: {built_in}, or the absolute path of a profile")
    try:
        with path.open("rb") as file:
            text = file.read(MAX_PROFILE_BYTES + 1).decode()
        profile = json.loads(text)
    except OSError as error:
        raise ValueError(f"{where}.seccomp: cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}.seccomp: {path} is not JSON of at most 1 MiB") from error
    actions = {"SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD"}
    if (
        not isinstance(profile, dict)
        or profile.get("defaultAction") not in actions
        or not isinstance(profile.get("syscalls"), list)
    ):
        raise ValueError(
            f"{where}.seccomp: {path} is no allow-list: its defaultAction must be one of "
            f"{', '.join(sorted(actions))}, and syscalls say what is allowed"
        )
    return Seccomp(name=str(path), profile=json.dumps(profile, separators=(",", ":")))
