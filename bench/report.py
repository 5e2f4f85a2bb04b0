"""What a figure is: a value, its unit, and the bar it is held to. Measures nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, assert_never


@dataclass(frozen=True, slots=True)
class AtLeast:
    value: float
    aim: str = ""


@dataclass(frozen=True, slots=True)
class AtMost:
    value: float
    aim: str = ""


@dataclass(frozen=True, slots=True)
class ReportOnly:
    """No bar of ours: what others have published, or the parts that a ratio is made of."""

    text: str = ""


Bar: TypeAlias = AtLeast | AtMost | ReportOnly


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table. detail: what the value is made of; empty for a part of another figure.

    value: None where there was nothing to measure it by; the detail says why.
    """

    name: str
    value: float | None
    unit: str
    bar: Bar = field(default_factory=ReportOnly)
    detail: str = ""

    @property
    def met(self) -> bool | None:
        """None: nothing to meet, or not measured. Judged on the value itself, not on its rounded form."""
        if self.value is None:
            return None
        match self.bar:
            case AtLeast(least):
                return self.value >= least
            case AtMost(most):
                return self.value <= most
            case ReportOnly():
                return None
            case _:
                assert_never(self.bar)


def bar_text(bar: Bar) -> str:
    match bar:
        case AtLeast(value, aim):
            return f">= {value:,.10g}" + (f"; {aim}" if aim else "")
        case AtMost(value, aim):
            return f"<= {value:,.10g}" + (f"; {aim}" if aim else "")
        case ReportOnly(text):
            return text
        case _:
            assert_never(bar)


def value_text(figure: Figure) -> str:
    """Three significant digits, except that a ratio close to its bar shows on which side it is."""
    value = figure.value
    if value is None:
        return "not measured"
    if figure.unit == "ratio":
        return f"{value:.3f}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def met_text(met: bool | None) -> str:
    return {True: "met", False: "missed", None: ""}[met]


def as_json(figures: Iterable[Figure]) -> list[dict[str, Any]]:
    return [
        {
            "name": each.name,
            "value": None if each.value is None else round(each.value, 6),
            "unit": each.unit,
            "bar": bar_text(each.bar) or None,
            "met": each.met,
        }
        for each in figures
    ]


def write_json(figures: Iterable[Figure], path: Path) -> None:
    """Whole or not at all: an interrupted run leaves the former file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".new")
    beside.write_text(json.dumps(as_json(figures), indent=2) + "\n", encoding="utf-8")
    beside.replace(path)
