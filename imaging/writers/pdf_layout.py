"""A page of paper in millimetres from its top left corner, and what is set on it: text, boxes, tables, pictures."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.textpath import TextToPath

A4_MM = (210.0, 297.0)
MARGIN_MM = 14.0
CONTENT_MM = A4_MM[0] - 2 * MARGIN_MM
LINE_SPACING = 1.32

INK = "#1d2733"
MUTED = "#5b6775"
RULE = "#c8d0d9"
ALERT = "#b3261e"
CAUTION = "#9a6700"
GOOD = "#1f6f43"
ACCENT = "#1f4e79"

_FONT = "DejaVu Sans"
_MM_PER_INCH = 25.4
_POINT_MM = _MM_PER_INCH / 72
_UNPRINTABLE = "□"

# Everything that decides how a page looks, set here rather than taken from the machine.
STYLE = {
    "font.family": _FONT,
    "font.size": 8.0,
    "pdf.fonttype": 42,
    "pdf.compression": 6,
    "text.parse_math": False,
    "text.usetex": False,
    "axes.linewidth": 0.6,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "axes.labelsize": 7.5,
    "image.interpolation": "bilinear",
    "lines.antialiased": True,
}


@lru_cache(maxsize=1)
def _glyphs() -> frozenset[int]:
    return frozenset(get_font(findfont(_FONT)).get_charmap())


def printable(text: str) -> str:
    """The text with a box for every character the font of the page has no shape for."""
    glyphs = _glyphs()
    shown = (char if ord(char) in glyphs else _UNPRINTABLE for char in " ".join(text.split()))
    return "".join(shown)


def text_width_mm(text: str, size: float, bold: bool = False) -> float:
    """Width of one line of text in mm."""
    properties = FontProperties(family=_FONT, size=size, weight="bold" if bold else "normal")
    width, _, _ = TextToPath().get_text_width_height_descent(text, properties, ismath=False)
    return float(width) * _POINT_MM


def wrapped(text: str, width_mm: float, size: float, bold: bool = False) -> list[str]:
    """Lines of at most ``width_mm``, broken at spaces (or inside a word that is wider than a line)."""
    lines: list[str] = []
    for word in text.split():
        candidate = f"{lines[-1]} {word}" if lines else word
        if lines and text_width_mm(candidate, size, bold) <= width_mm:
            lines[-1] = candidate
            continue
        while text_width_mm(word, size, bold) > width_mm and len(word) > 1:
            widths = range(1, len(word))
            cut = max(
                1, bisect_right(widths, width_mm, key=lambda end: text_width_mm(word[:end], size, bold))
            )
            lines.append(word[:cut])
            word = word[cut:]
        lines.append(word)
    return lines


@dataclass(frozen=True)
class Cell:
    """Text of a table cell with its look."""

    text: str
    colour: str = INK
    bold: bool = False


@dataclass(frozen=True)
class Column:
    """Heading, width in mm and alignment of a table column."""

    heading: str
    width: float
    align: str = "right"


@dataclass(eq=False)
class Page:
    """One A4 page under construction; ``figure`` is what matplotlib draws."""

    figure: Figure = field(
        default_factory=lambda: Figure(figsize=(A4_MM[0] / _MM_PER_INCH, A4_MM[1] / _MM_PER_INCH))
    )

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float = 8.0,
        bold: bool = False,
        colour: str = INK,
        align: str = "left",
    ) -> None:
        """One line; ``y`` is its top in mm."""
        baseline = y + size * _POINT_MM * 0.92
        self.figure.text(
            x / A4_MM[0],
            1 - baseline / A4_MM[1],
            printable(text),
            fontsize=size,
            fontweight="bold" if bold else "normal",
            color=colour,
            ha=align,
            va="baseline",
        )

    def paragraph(
        self,
        x: float,
        y: float,
        text: str,
        width: float,
        *,
        size: float = 8.0,
        bold: bool = False,
        colour: str = INK,
        max_lines: int | None = None,
    ) -> float:
        """Wrapped text; returns the y below it. Text beyond ``max_lines`` ends in an ellipsis."""
        lines = wrapped(printable(text), width, size, bold)
        if max_lines is not None and len(lines) > max_lines:
            lines = [*lines[: max_lines - 1], lines[max_lines - 1] + " …"]
        for line in lines:
            self.text(x, y, line, size=size, bold=bold, colour=colour)
            y += line_height(size)
        return y

    def heading(self, y: float, text: str, *, x: float = MARGIN_MM, width: float = CONTENT_MM) -> float:
        """Section heading with a rule under it; returns the y below it."""
        self.text(x, y, text, size=9.5, bold=True, colour=ACCENT)
        self.rule(y + 5.0, x, x + width)
        return y + 6.6

    def rule(self, y: float, left: float, right: float, colour: str = RULE, width: float = 0.6) -> None:
        """Horizontal line."""
        height = 1 - y / A4_MM[1]
        self.figure.add_artist(
            Line2D([left / A4_MM[0], right / A4_MM[0]], [height, height], color=colour, linewidth=width)
        )

    def box(self, x: float, y: float, width: float, height: float, *, fill: str, edge: str = "none") -> None:
        """Filled rectangle behind later text."""
        self.figure.add_artist(
            Rectangle(
                (x / A4_MM[0], 1 - (y + height) / A4_MM[1]),
                width / A4_MM[0],
                height / A4_MM[1],
                facecolor=fill,
                edgecolor=edge,
                linewidth=0.6,
                zorder=-1,
            )
        )

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        """Axes with their frame in mm."""
        return self.figure.add_axes(
            (x / A4_MM[0], 1 - (y + height) / A4_MM[1], width / A4_MM[0], height / A4_MM[1])
        )

    def table(
        self,
        x: float,
        y: float,
        columns: Sequence[Column],
        rows: Sequence[Sequence[str | Cell]],
        *,
        size: float = 7.5,
    ) -> float:
        """Table with rules above and below its head; returns the y below it."""
        step = line_height(size) + 0.7
        width = sum(column.width for column in columns)
        left = x
        for column in columns:
            self._cell(left, y, column, Cell(column.heading, MUTED, bold=True), size)
            left += column.width
        y += step
        self.rule(y - 0.4, x, x + width, MUTED)
        y += 0.5
        for row in rows:
            left = x
            for column, value in zip(columns, row, strict=True):
                self._cell(left, y, column, value if isinstance(value, Cell) else Cell(value), size)
                left += column.width
            y += step
        self.rule(y, x, x + width)
        return y + 1.5

    def _cell(self, left: float, y: float, column: Column, cell: Cell, size: float) -> None:
        x = left + column.width - 1.0 if column.align == "right" else left
        text = printable(cell.text)
        room = column.width - 1.0
        while len(text) > 2 and text_width_mm(text, size, cell.bold) > room:
            text = text.rstrip("…")[:-1] + "…"
        self.text(x, y, text, size=size, bold=cell.bold, colour=cell.colour, align=column.align)


def line_height(size: float) -> float:
    """Distance of lines in mm for a font size in points."""
    return size * _POINT_MM * LINE_SPACING
