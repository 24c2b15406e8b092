"""Settings files in YAML, read strictly: what is written twice is refused, since the first would silently not count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml


class _StrictLoader(yaml.SafeLoader):
    """YAML 1.2 (3.2.1.3) wants the keys of a mapping to be unique; PyYAML takes the last."""


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            continue
        if key.value in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {key.value} is there twice, in line {key.start_mark.line + 1} again"
            )
        seen.add(key.value)
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_settings_file(path: Path) -> Any:
    """The document in a YAML file.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is no YAML in UTF-8, or has a key twice; says where, and quotes nothing but that key.
    """
    text = path.read_bytes()
    try:
        return yaml.load(text.decode("utf-8"), _StrictLoader)
    except UnicodeDecodeError as error:
        raise ValueError("not text in UTF-8") from error
    except yaml.constructor.ConstructorError as error:
        raise ValueError(error.problem) from error
    except yaml.MarkedYAMLError as error:
        where = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"not valid YAML{where} ({error.problem})") from error
    except yaml.YAMLError as error:
        raise ValueError(f"not valid YAML ({type(error).__name__})") from error
