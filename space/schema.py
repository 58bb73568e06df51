"""The structure of a space file, as `spaces/schema.json` has it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema

_SCHEMA = json.loads(
    Path(__file__).with_name("spaces").joinpath("schema.json").read_text(encoding="utf-8")
)
# To JSON Schema 8.0 is an integer; to a layer it is not.
_Validator = jsonschema.validators.extend(
    jsonschema.Draft202012Validator,
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
    ),
)


def check(definition: Mapping[str, Any]) -> None:
    """ValueError names the entry that is wrong and what is allowed there."""
    error = jsonschema.exceptions.best_match(_Validator(_SCHEMA).iter_errors(definition))
    if error is not None:
        where = ".".join(str(step) for step in error.absolute_path) or "the space"
        raise ValueError(f"{where}: {error.message}")
