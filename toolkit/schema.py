"""The base of everything that is read from a file: unknown keys are errors that name the nearest known key."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from toolkit.errors import UserError
from toolkit.limits import MAX_JSON_BYTES, MAX_YAML_BYTES, parse_json, parse_yaml, read_text

Model = TypeVar("Model", bound=BaseModel)
MOST_QUOTED = 400  # characters of a file that a message repeats


class StrictModel(BaseModel):
    """A pydantic model that refuses unknown keys and says which key was probably meant."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _name_nearest_key(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        fields = cls.model_fields
        known = {field.alias or name for name, field in fields.items()}
        for key in data:
            if key not in known and key not in fields:
                near = difflib.get_close_matches(str(key), known, n=1)
                hint = f"did you mean '{near[0]}'? " if near else ""
                raise ValueError(f"unknown key '{key}' ({hint}known: {', '.join(sorted(known))})")
        return data


def validate(model: type[Model], data: Any, source: str) -> Model:
    """Build `model` from `data`; raises `UserError` with one line that names the key and `source`."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first, *others = error.errors()
        where = shortened(".".join(str(part) for part in first["loc"])) or "top level"
        reason = shortened(first["msg"].removeprefix("Value error, "))
        is_plain = isinstance(first["input"], str | int | float | bool | None)
        given = f", got {shortened(repr(first['input']))}" if is_plain else ""
        more = f" ({len(others)} more)" if others else ""
        raise UserError(f"{source}: {where}: {reason}{given}{more}") from error


def shortened(text: str) -> str:
    """A text that others wrote, as a message may quote it."""
    return text if len(text) <= MOST_QUOTED else f"{text[:MOST_QUOTED]}…"


def validate_json(model: type[Model], path: Path) -> Model:
    """Build `model` from a JSON file; raises `UserError` that names the file where it holds something else."""
    return validate(model, read_json(path), str(path))


def read_json(path: Path, *, finite: bool = True) -> Any:
    """The content of a JSON file; raises `UserError` if it is not JSON, or if numbers are not `finite`."""
    try:
        return parse_json(read_text(path, MAX_JSON_BYTES), finite=finite)
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}); the file is damaged") from error


def read_yaml(path: Path) -> Any:
    """The content of a YAML file; raises `UserError` if it is missing or not YAML."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        return parse_yaml(read_text(path, MAX_YAML_BYTES))
    except ValueError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
