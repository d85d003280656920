"""The part of the wire contract about what a program shows beside its output."""

from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from codecell.model import Form, Outcome, Value
from codecell.values import PICTURES


class FormOutput(BaseModel):
    """A picture, or another form that the result itself has no room for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mime_type: str = Field(description="MIME type.")
    bytes: int = Field(description="Size.")
    width: int | None = Field(description="Pixels, of a picture.")
    height: int | None = Field(description="Pixels, of a picture.")
    image: int | None = Field(
        description="Which of the image content blocks of this result it is, from 1."
    )
    uri: str | None = Field(description="Resource to read it from, where it is no content block.")


class ValueOutput(BaseModel):
    """A value in the forms it has."""

    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True)

    text: str = Field(description="As the language writes it.")
    text_truncated: bool = Field(description="text is only its beginning.")
    json_: Any = Field(alias="json", description="As JSON where it is JSON, else null.")
    mime: dict[str, str] = Field(description="As text of further MIME types, such as text/html.")
    files: list[FormOutput] = Field(description="Pictures, and what is too large for `mime`.")
    notes: list[str] = Field(description="What is left out, and why.")


def to_values(outcome: Outcome) -> tuple[ValueOutput | None, list[ValueOutput]]:
    """State the value of the last expression, and what was displayed."""
    number = iter(range(1, 1 << 31))
    displays = [_value(value, number) for value in outcome.displays]
    return (_value(outcome.result, number) if outcome.result else None), displays


def pictures(outcome: Outcome) -> list[Form]:
    """Return the pictures that come with the result, in the order of their numbers."""
    values: Iterable[Value] = (*outcome.displays, *filter(None, (outcome.result,)))
    return [form for value in values for form in value.forms if _is_block(form)]


def _is_block(form: Form) -> bool:
    return form.uri is None and form.mime in PICTURES


def _value(value: Value, number: Iterator[int]) -> ValueOutput:
    return ValueOutput(
        text=value.text,
        text_truncated=value.cut,
        json=value.json[0] if value.json else None,
        mime={
            form.mime: form.data.decode("utf-8", "replace")
            for form in value.forms
            if form.uri is None and form.mime not in PICTURES
        },
        files=[
            FormOutput(
                mime_type=form.mime,
                bytes=len(form.data),
                width=form.width or None,
                height=form.height or None,
                image=next(number) if _is_block(form) else None,
                uri=form.uri,
            )
            for form in value.forms
            if form.uri is not None or form.mime in PICTURES
        ],
        notes=list(value.notes),
    )
