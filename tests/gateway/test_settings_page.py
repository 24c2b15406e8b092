"""The page of settings names every key and its default, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from gateway.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
_ROW = re.compile(r"^\| `([a-z_.]+)` \| (–|`[^`]*`) \| \S.* \|$", re.MULTILINE)


def sections_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The settings classes in a type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Annotated, tuple, Union, UnionType):
        for argument in get_args(annotation):
            yield from sections_in(argument)


def keys_of(section: type[BaseModel], before: str = "") -> Iterator[tuple[str, str]]:
    for name, field in section.model_fields.items():
        inner = list(sections_in(field.annotation))
        for one in inner:
            yield from keys_of(one, f"{before}{name}.")
        if not inner:
            yield before + name, default_of(field)


def default_of(field: FieldInfo) -> str:
    """As the page shows it."""
    value = field.default
    if value is None or value is PydanticUndefined:
        return "–"
    if value == "":
        return '`""`'
    return f"`[{', '.join(value)}]`" if isinstance(value, tuple) else f"`{value}`"


def test_every_key_stands_on_the_page_with_its_default() -> None:
    page = (ROOT / "docs" / "gateway-settings.md").read_text(encoding="utf-8")
    written = _ROW.findall(page)
    assert sorted(written) == sorted(keys_of(Settings))


def test_the_examples_are_settings() -> None:
    for path in (ROOT / "deploy" / "gateway.yaml", ROOT / "deploy" / "compose" / "gateway.yaml"):
        Settings.model_validate(yaml.safe_load(path.read_text()))
        lines = path.read_text().splitlines()
        # What is commented out is an example too.
        shown = [re.sub(r"^# (?=[ a-z])", "", line) for line in lines[1:]]
        Settings.model_validate(yaml.safe_load("\n".join(shown)))
