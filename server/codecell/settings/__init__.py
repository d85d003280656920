"""One frozen `Settings` value, made once at the edge: flags, then `CODECELL_*`, then codecell.toml.

Nothing below `cli` reads the environment. Every field's description becomes a row of the README's
table (`codecell settings --markdown`, compared in the tests).
"""

import os
import tomllib
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ByteSize, Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from codecell.callers import CALLER_NAME
from codecell.errors import ConfigurationError
from codecell.language import Languages
from codecell.languages import LANGUAGES
from codecell.settings.audit import AuditSettings
from codecell.settings.languages import LanguageSettings
from codecell.settings.policies import (
    DEFAULT,
    Policy,
    PolicyName,
    PolicySettings,
    whole,
)
from codecell.settings.sections import (
    MIB,
    EngineSettings,
    FileSettings,
    LimitSettings,
    LogSettings,
    PoolSettings,
    RetrySettings,
    RunSettings,
    Section,
    SecuritySettings,
    SessionSettings,
    StoreSettings,
)
from codecell.settings.serving import CallerSettings, HttpSettings, OAuthSettings

__all__ = [
    "DEFAULT",
    "AuditSettings",
    "CallerSettings",
    "EngineSettings",
    "FileSettings",
    "HttpSettings",
    "LanguageSettings",
    "LimitSettings",
    "LogSettings",
    "OAuthSettings",
    "Policy",
    "PoolSettings",
    "RetrySettings",
    "RunSettings",
    "SecuritySettings",
    "SessionSettings",
    "Settings",
    "StoreSettings",
    "load",
    "rows",
]

ENV_PREFIX, ENV_DELIMITER = "CODECELL_", "__"
_UNLIMITED = CallerSettings()


class Settings(BaseSettings):
    """The whole configuration."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter=ENV_DELIMITER,
        frozen=True,
        extra="forbid",
        validate_default=True,
        nested_model_default_partial_update=True,
    )

    limits: LimitSettings = LimitSettings()
    runs: RunSettings = RunSettings()
    retries: RetrySettings = RetrySettings()
    pool: PoolSettings = PoolSettings()
    sessions: SessionSettings = SessionSettings()
    files: FileSettings = FileSettings()
    store: StoreSettings = StoreSettings()
    engine: EngineSettings = EngineSettings()
    http: HttpSettings = HttpSettings()
    security: SecuritySettings = SecuritySettings()
    audit: AuditSettings = AuditSettings()
    oauth: OAuthSettings = OAuthSettings()
    log: LogSettings = LogSettings()
    languages: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")], LanguageSettings] = (
        Field(default={}, description="Languages added or changed")
    )
    policies: dict[PolicyName, PolicySettings] = Field(
        default={}, description="What callers may do"
    )
    callers: dict[Annotated[str, Field(pattern=CALLER_NAME)], CallerSettings] = Field(
        default={}, description="What callers may use; `default` is for all that are not named"
    )

    @cached_property
    def table(self) -> Languages:
        """The languages of this server: ours and the operator's."""
        ours = [
            self.languages[name].apply(name, language) if name in self.languages else language
            for name, language in LANGUAGES.items()
        ]
        new = [
            given.apply(name, None)
            for name, given in self.languages.items()
            if name not in LANGUAGES
        ]
        return Languages([*ours, *new])

    def limits_of(self, caller: str) -> CallerSettings:
        """Return what a caller may use: its own entry, else the one for all others."""
        own = self.callers.get(caller)
        return own if own is not None else self.callers.get(DEFAULT, _UNLIMITED)

    @property
    def body_bytes(self) -> int:
        """The largest body of an HTTP request, in bytes."""
        return self.http.body if self.http.body is not None else 2 * self._accepted + MIB

    @property
    def _accepted(self) -> int:
        """What a request may carry, before JSON escapes it (files: base64, 4 for 3)."""
        return self.limits.code + self.limits.stdin + self.files.in_size

    @model_validator(mode="after")
    def _bodies_fit(self) -> Self:
        if self.body_bytes < self._accepted:
            raise ValueError(
                "http.body is smaller than limits.code, limits.stdin and files.in_size together"
            )
        if self.http.bodies < self.body_bytes:
            raise ValueError(f"http.bodies is smaller than one body ({self.body_bytes:,} bytes)")
        return self

    @cached_property
    def rules(self) -> dict[str, Policy]:
        """The policies by name, each whole; `default` is for whom no other is named."""
        given = {DEFAULT: PolicySettings(), **self.policies}
        return {name: whole(name, policy, self) for name, policy in given.items()}

    @cached_property
    def _assigned(self) -> dict[str, Policy]:
        """The policy of each caller that is named, and of `default`, which is all others."""
        others = self.callers.get(DEFAULT)
        fallback = (others.policy if others else None) or DEFAULT
        given = {name: caller.policy or fallback for name, caller in self.callers.items()}
        return {name: self.rules[policy] for name, policy in {DEFAULT: fallback, **given}.items()}

    def sessions_of(self, caller: str) -> int:
        """Return how many sessions a caller may have open."""
        for name in (caller, DEFAULT):
            given = self.callers.get(name)
            if given is not None and given.sessions is not None:
                return given.sessions
        return self.sessions.per_caller

    def policy_of(self, caller: str) -> Policy:
        """Return the policy that a caller is under."""
        return self._assigned.get(caller) or self._assigned[DEFAULT]

    def policies_in_use(self) -> dict[str, str]:
        """Return the policies that anybody is under, each with one such caller; default first."""
        first: dict[str, str] = {}
        for caller, policy in self._assigned.items():
            first.setdefault(policy.name, caller)
        return first

    @model_validator(mode="after")
    def _languages_fit(self) -> Self:
        for name in self.pool.languages:
            if name not in self.table:
                raise ValueError(
                    f"pool.languages: unknown language {name!r}; known: {', '.join(self.table)}"
                )
        pairs = (
            ("memory", "max_memory"),
            ("cpus", "max_cpus"),
            ("processes", "max_processes"),
            ("compile_timeout_s", "max_compile_timeout_s"),
        )
        for name, given in self.languages.items():
            for key, ceiling in pairs:
                value, most = getattr(given, key), getattr(self.limits, ceiling)
                if value is not None and value > most:
                    raise ValueError(
                        f"languages.{name}.{key} is larger than its ceiling limits.{ceiling}"
                    )
            sandbox, tmp = given.sandbox or self.limits.sandbox, given.tmp or self.limits.tmp
            if sandbox + tmp > self.limits.max_tmpfs:
                raise ValueError(
                    f"languages.{name}.sandbox and tmp together are larger than limits.max_tmpfs"
                )
        return self

    @model_validator(mode="after")
    def _callers_have_policies(self) -> Self:
        rules = self.rules  # made here, so that a contradiction is found at the start
        for name, caller in self.callers.items():
            if (caller.policy or DEFAULT) not in rules:
                raise ValueError(
                    f"callers.{name}.policy: there is no policy {caller.policy!r}; "
                    f"known: {', '.join(rules)}"
                )
        return self


def load(config: Path | None = None, flags: Mapping[str, Any] | None = None) -> Settings:
    """Read the settings in their precedence: flags, environment, file.

    Args:
        config: a codecell.toml; None takes ./codecell.toml where there is one.
        flags: nested values that win over everything, as `{"engine": {"runtime": "runsc"}}`.

    Raises:
        ConfigurationError: naming the key that is unknown, malformed or contradictory.
    """
    path = config if config is not None else Path("codecell.toml")
    if config is not None and not config.is_file():
        raise ConfigurationError(f"configuration file {config} does not exist")

    class _Sources(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            del dotenv_settings, file_secret_settings
            toml = TomlConfigSettingsSource(settings_cls, toml_file=path)
            return init_settings, env_settings, toml

    _check_environment()
    try:
        return _Sources(**(flags or {}))
    except ValidationError as error:
        raise ConfigurationError(_explain(error)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}") from error
    except SettingsError as error:
        raise ConfigurationError(f'{error}; a list is written as ["a", "b"]') from error


def _check_environment() -> None:
    """Refuse variables that would be ignored: pydantic-settings reads only the names it knows."""
    for name in sorted(os.environ):
        section = name.removeprefix(ENV_PREFIX).partition(ENV_DELIMITER)[0].lower()
        if name.startswith(ENV_PREFIX) and section not in Settings.model_fields:
            raise ConfigurationError(
                f"{name}: unknown; {ENV_PREFIX}<SECTION>{ENV_DELIMITER}<KEY> is read, with the "
                f"sections {', '.join(Settings.model_fields).upper()}"
            )


def _explain(error: ValidationError) -> str:
    parts = []
    for item in error.errors(include_url=False, include_input=False):
        key = ".".join(str(part) for part in item["loc"])
        text = "unknown key" if item["type"] == "extra_forbidden" else item["msg"]
        parts.append(f"{key}: {text.removeprefix('Value error, ')}" if key else text)
    return "; ".join(parts)


_NAMED: dict[str, type[BaseModel]] = {
    "languages": LanguageSettings,
    "callers": CallerSettings,
    "policies": PolicySettings,
}


def rows() -> Iterator[tuple[str, str, str]]:
    """Yield (key, default, meaning) of every setting, for the README's generated table."""
    for section, field in Settings.model_fields.items():
        model: Any = field.annotation
        if section in _NAMED:
            model, section = _NAMED[section], f"{section}.NAME"
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            continue
        for name, info in model.model_fields.items():
            yield f"{section}.{name}", _show(info.default), info.description or ""


def _show(value: object) -> str:
    if value is None or isinstance(value, Section):
        return "(none)"
    if isinstance(value, ByteSize):
        return value.human_readable().replace(".0", "")
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)
