"""What the code was: digests that change when the code does, and not when a comment or a docstring does."""

import ast
import hashlib
import inspect
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]


def digest_of_modules(modules: Iterable[ModuleType], more: str = "") -> str:
    """Twelve hexadecimal digits of the modules' code and of ``more``."""
    sources = [inspect.getsource(module) for module in modules]
    return hashlib.sha256("\n".join([*map(bare, sources), more]).encode()).hexdigest()[:12]


def digest_of_folder(folder: Path) -> str:
    """Twelve hexadecimal digits of all Python code below ``folder``."""
    parts = [bare(path.read_text("utf-8")) for path in sorted(folder.rglob("*.py"))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def bare(source: str) -> str:
    """The code without comments, docstrings and layout."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        first = node.body[0] if node.body else None
        if (
            isinstance(first, ast.Expr)
            and isinstance(first.value, ast.Constant)
            and isinstance(first.value.value, str)
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree)
