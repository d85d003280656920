"""Where each value of a plan comes from: pure, for `codecell policy explain`."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from codecell.ceilings import compile_timeout_s
from codecell.language import Language
from codecell.languages import LANGUAGES
from codecell.policy import cell_spec
from codecell.settings import DEFAULT, LimitSettings, Policy, Settings

# key of [limits] -> the field of a language that may ask for another value
_OF_LANGUAGE = {
    "memory": "memory_bytes",
    "cpus": "cpus",
    "processes": "pids",
    "sandbox": "sandbox_bytes",
    "tmp": "tmp_bytes",
    "compile_timeout_s": "compile_timeout_s",
}
_CEILING = {
    "memory": "max_memory",
    "cpus": "max_cpus",
    "processes": "max_processes",
    "sandbox": "max_tmpfs",
    "tmp": "max_tmpfs",
    "compile_timeout_s": "max_compile_timeout_s",
}


@dataclass(frozen=True, slots=True)
class Value:
    """One value in force and its origin."""

    key: str
    value: Any
    origin: str


def explain(caller: str, language: Language, settings: Settings) -> Iterator[Value]:
    """Yield everything that a run of a caller in a language would be held to."""
    rules = settings.policy_of(caller)
    yield Value("policy", rules.name, _who_says(caller, settings))
    allowed = rules.allows(language.id)
    yield Value("allowed", allowed, _origin("languages", "every language", rules))
    yield Value("network", "none", "fixed")
    yield Value("mounts", "none", "fixed")
    yield from _choices(rules, settings)
    yield from _limits(language, rules, settings)


def _who_says(caller: str, settings: Settings) -> str:
    for name in (caller, DEFAULT):
        if name in settings.callers and settings.callers[name].policy is not None:
            return f"callers.{name}.policy"
    return "nothing else is said"


def _choices(rules: Policy, settings: Settings) -> Iterator[Value]:
    of_engine = "engine.runtime" if settings.engine.runtime else "the engine's default"
    yield Value("runtime", rules.runtime, _origin("runtime", of_engine, rules))
    yield Value("seccomp", rules.seccomp.name, _origin("seccomp", "codecell's own", rules))
    yield Value("reuse", rules.reuse, _origin("reuse", "pool.reuse", rules))
    yield Value("sessions", rules.sessions, _origin("sessions", "allowed by default", rules))


def _origin(key: str, otherwise: str, rules: Policy) -> str:
    return f"policies.{rules.name}.{key}" if key in rules.changed else otherwise


def _limits(language: Language, rules: Policy, settings: Settings) -> Iterator[Value]:
    cell = cell_spec(language, settings, rules).limits
    applied: dict[str, Any] = {
        "memory": cell.memory_bytes,
        "cpus": cell.cpus,
        "processes": cell.pids,
        "sandbox": cell.sandbox_bytes,
        "tmp": cell.tmp_bytes,
        "compile_timeout_s": compile_timeout_s(language, rules.limits),
    }
    for key in LimitSettings.model_fields:
        value = applied.get(key, getattr(rules.limits, key))
        yield Value(f"limits.{key}", value, _origin_of_limit(key, value, language, rules, settings))


def _origin_of_limit(
    key: str, value: Any, language: Language, rules: Policy, settings: Settings
) -> str:
    wanted = getattr(language, _OF_LANGUAGE[key]) if key in _OF_LANGUAGE else None
    asked = wanted if wanted is not None else getattr(rules.limits, key)
    if value != asked:
        ceiling = _CEILING[key]
        return f"{_general(ceiling, rules, settings)} (asked for: {asked:,})"
    if wanted is not None:
        own = getattr(settings.languages.get(language.id), key, None) is not None
        known = language.id in LANGUAGES
        return f"languages.{language.id}.{key}" if own or not known else "the language's toolchain"
    return _general(key, rules, settings)


def _general(key: str, rules: Policy, settings: Settings) -> str:
    if f"limits.{key}" in rules.changed:
        return f"policies.{rules.name}.limits.{key}"
    value = getattr(rules.limits, key)
    if value != getattr(settings.limits, key):
        return f"lowered to the ceiling of policies.{rules.name}"
    default = value == LimitSettings.model_fields[key].default
    return f"limits.{key} (default)" if default else f"limits.{key}"


def assigned(settings: Settings) -> dict[str, list[str]]:
    """Return the callers that are named, by policy; whoever is not named is under `default`."""
    found: dict[str, list[str]] = {name: [] for name in settings.rules}
    for name in settings.callers:
        if name != DEFAULT:
            found[settings.policy_of(name).name].append(name)
    found[settings.policy_of(DEFAULT).name].append("everyone else")
    return found
