"""How the wire contract is checked, explained and published, whatever its models.

Input is strict: a JSON boolean or string is not a number, and an unknown field is an error that
names the field.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from codecell.errors import RequestError

_SHOWN_ERRORS = 5
_SHOWN_NAME = 40


@dataclass(frozen=True, slots=True)
class Expect:
    """What a field accepts, worded to follow "must be"."""

    text: str


class WireInput(BaseModel):
    """What a caller sends: strict JSON types, no unknown field."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class WireOutput(BaseModel):
    """What a caller gets."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Input = TypeVar("Input", bound=WireInput)


def validated(model: type[Input], arguments: Mapping[str, Any]) -> Input:
    """Read a call's arguments.

    Raises:
        RequestError: they have not the right shape; the text explains each bad field.
    """
    try:
        return model.model_validate(arguments)
    except ValidationError as error:
        raise RequestError(explain(error, model)) from error


def explain(error: ValidationError, model: type[WireInput]) -> str:
    """Say what to send instead: one sentence per bad field, without the values that were sent."""
    sentences = list(_sentences(error, model))
    more = len(sentences) - _SHOWN_ERRORS
    if more > 0:
        sentences[_SHOWN_ERRORS:] = [f"There are {more} more such errors."]
    return " ".join(sentences)


def _sentences(error: ValidationError, model: type[WireInput]) -> Iterator[str]:
    unknown = []
    for item in error.errors(include_url=False, include_context=False):
        location, kind = item["loc"], item["type"]
        if kind == "extra_forbidden":
            if len(location) == 1:
                unknown.append(_quoted(location[0]))
            else:
                inner, _ = _model(model, location)
                where, field = _path(model, location[:-1]), _quoted(location[-1])
                known = ", ".join(inner.model_fields)
                yield f"{where} has the unknown field {field}; valid fields are {known}."
            continue
        expected = _expected(model, location)
        if kind == "missing":
            yield f"{_path(model, location)} is required and must be {expected}."
        else:
            # A string that does not match a pattern is of the right type.
            instead = "" if kind == "string_pattern_mismatch" else _instead(item["input"])
            yield f"{_path(model, location)} must be {expected}{instead}."
    if unknown:
        fields = list(model.model_fields)
        valid = f"valid fields are {', '.join(fields)}" if fields else "no arguments are accepted"
        some = ", ".join(unknown[:_SHOWN_ERRORS]) + (
            ", ..." if len(unknown) > _SHOWN_ERRORS else ""
        )
        yield f"Unknown field{'s' if len(unknown) > 1 else ''} {some}; {valid}."


def _expected(model: type[WireInput], location: tuple[int | str, ...]) -> str:
    if not location:
        return "an object"
    model, rest = _model(model, location)
    if not rest:
        return "an object with " + " and ".join(list(model.model_fields)[:2])
    if len(rest) > 1:
        return "a string"  # the other nested values are those of args and env
    metadata = model.model_fields[str(rest[0])].metadata
    return next((item.text for item in metadata if isinstance(item, Expect)), "valid")


def _model(
    model: type[WireInput], location: tuple[int | str, ...]
) -> tuple[type[WireInput], tuple[int | str, ...]]:
    """Follow a location into arrays of objects; return the last model, and the rest within it."""
    if len(location) > 1 and isinstance(location[1], int):
        for inner in get_args(model.model_fields[str(location[0])].annotation):
            if isinstance(inner, type) and issubclass(inner, WireInput):
                return _model(inner, location[2:])
    return model, location


def _path(model: type[WireInput], location: tuple[int | str, ...]) -> str:
    if not location:
        return "arguments"
    inner, rest = _model(model, location)
    if inner is not model and rest:
        return f"{_path(model, location[: -len(rest)])}.{_path(inner, rest)}"
    steps = "".join(f"[{p}]" if isinstance(p, int) else f"[{_quoted(p)}]" for p in location[1:])
    return f"{location[0]}{steps}"


def _quoted(name: object) -> str:
    text = str(name)
    return json.dumps(text if len(text) <= _SHOWN_NAME else text[:_SHOWN_NAME] + "...")


def _instead(value: object) -> str:
    """Name the JSON type that was sent; a number of the right type speaks for itself."""
    match value:
        case None:
            return ", not null"
        case bool():
            return ", not a boolean"
        case str():
            return ", not a string"
        case list():
            return ", not an array"
        case dict():
            return ", not an object"
        case int() | float():
            return f", not {value:g}" if abs(value) < 1e15 or value != value else ""
        case _:
            return ""


def schema_of(
    model: type[BaseModel], mode: Literal["validation", "serialization"]
) -> dict[str, Any]:
    """Return a model's JSON schema without references and titles: they cost tokens.

    What is nullable in an output is so by its type: a client that checks each result, as the SDK's
    does, spends a quarter less on it. In an input it stays `anyOf`, which more model APIs take.
    """
    schema = model.model_json_schema(mode=mode)
    definitions = schema.pop("$defs", {})
    flat: dict[str, Any] = _flatten(schema, definitions)
    flat.pop("description", None)  # the tool's own description says it
    return _nullable_by_type(flat) if mode == "serialization" else flat


def _nullable_by_type(node: Any) -> Any:
    if isinstance(node, list):
        return [_nullable_by_type(item) for item in node]
    if not isinstance(node, dict):
        return node
    match node:
        case {"anyOf": [{"type": str(kind)} as some, {"type": "null"}]} if "enum" not in some:
            outer = {key: value for key, value in node.items() if key != "anyOf"}
            node = {**some, **outer, "type": [kind, "null"]}
    return {key: _nullable_by_type(value) for key, value in node.items()}


def _flatten(node: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(node, list):
        return [_flatten(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        target = definitions[node["$ref"].rpartition("/")[2]]
        node = {**target, **{key: value for key, value in node.items() if key != "$ref"}}
    return {
        # "title" is noise unless it is a property of that name, whose value is a schema
        key: _flatten(value, definitions)
        for key, value in node.items()
        if key != "title" or isinstance(value, dict)
    }
