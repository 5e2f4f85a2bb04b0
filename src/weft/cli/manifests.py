"""Reads the YAML that operators write: objects of ``{name, spec}``, with the place each was found at.

Never guesses: YAML 1.2's few scalars only (a MAC is no base-60 number, `no` no boolean), a key given twice is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml

from weft.kit.errors import Rejected
from weft.model.names import find_kind

_BASE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is eight times as fast, where it is built in


class _Loader(_BASE):  # type: ignore[misc]  # its base is chosen at run time
    """YAML 1.2's core scalars. PyYAML speaks 1.1, where 10:20:30:40:50:51 is an integer and 2026-01-01 a date."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key.value, str):
                raise Rejected(f"line {line}: a key that is itself a list or a mapping; keys are words")
            if key.value in seen:
                raise Rejected(f"line {line}: {key.value!r} is given twice; keep one of the two")
            seen.add(key.value)
        built: dict[Any, Any] = super().construct_mapping(node, deep)
        return built


def _plain_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _plain_mapping)
for _tag, _pattern, _first in (
    ("merge", r"<<", "<"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?[0-9]+\.[0-9]+(?:[eE][-+]?[0-9]+)?", "-+0123456789"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))


@dataclass(frozen=True, slots=True)
class Manifest:
    """One object as it was written. place: ``file:line``, for errors."""

    name: str
    spec: dict[str, Any]
    place: str


def documents(text: str, source: str) -> Iterator[tuple[Any, Any]]:
    """Each YAML document of the text, as (node, value)."""
    loader = _Loader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            yield node, loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{source}:{mark.line + 1}" if mark else source
        raise Rejected(f"{place}: not YAML: {getattr(error, 'problem', None) or error}") from error
    except Rejected as error:
        raise Rejected(f"{source}: {error.message}", error.field) from error
    finally:
        loader.dispose()


def one_document(text: str, source: str) -> Any:
    """The value of a file that holds a single document."""
    values = [value for _, value in documents(text, source)]
    if len(values) != 1:
        raise Rejected(f"{source}: {len(values)} documents; exactly one is expected")
    return values[0]


def manifests(text: str, source: str) -> Iterator[Manifest]:
    """Every object of the text: one a document, or a list of them in a document. Empty documents count for nothing."""
    for node, value in documents(text, source):
        if value is None:
            continue
        if isinstance(value, list):
            for item_node, item in zip(node.value, value, strict=True):
                yield manifest(item, f"{source}:{item_node.start_mark.line + 1}")
        else:
            yield manifest(value, f"{source}:{node.start_mark.line + 1}")


def manifest(value: Any, place: str) -> Manifest:
    """One object; its spec may be left out when it is empty."""
    if not isinstance(value, dict):
        raise Rejected(f"{place}: {_short(value)} is not an object such as {{name: tenants/blue, spec: {{}}}}")
    if unknown := sorted(str(key) for key in value.keys() - {"name", "spec", "kind", "revision", "status"}):
        raise Rejected(f"{place}: {unknown[0]!r} is no field of an object; it has name and spec")
    name, spec, kind = value.get("name"), value.get("spec"), value.get("kind")
    if name is not None and not isinstance(name, str):
        raise Rejected(f"{place}: {_short(name)} is not a name; a path such as tenants/blue/ports/web-1 is")
    if not name:
        raise Rejected(f"{place}: name is missing; it is a path such as tenants/blue/ports/web-1")
    if spec is not None and not isinstance(spec, dict):
        raise Rejected(f"{place}: the spec of {name} is {_short(spec)}; it is a mapping of fields")
    # Names that are none are the controller's to refuse. A kind need not be given, since the name says it.
    if kind is not None and (found := find_kind(name)) is not None and kind != found.value:
        raise Rejected(f"{place}: {name} is a {found.value}, not a {_short(kind)}: leave the kind out")
    return Manifest(name, spec or {}, place)


def read_files(paths: Iterable[str], stdin: str | None = None) -> list[Manifest]:
    """The objects of files, of every ``*.yaml`` of directories, and of ``-`` (stdin's text). One name may come once."""
    found: dict[str, Manifest] = {}
    for source, text in _texts(paths, stdin):
        for each in manifests(text, source):
            if (first := found.get(each.name)) is not None:
                raise Rejected(f"{each.place}: {each.name} stands at {first.place} already; keep one of the two")
            found[each.name] = each
    return list(found.values())


def _texts(paths: Iterable[str], stdin: str | None) -> Iterator[tuple[str, str]]:
    for given in paths:
        if given == "-":
            yield "stdin", stdin or ""
            continue
        path = Path(given)
        files = sorted([*path.glob("*.yaml"), *path.glob("*.yml")]) if path.is_dir() else [path]
        if not files:
            raise Rejected(f"{given}: a directory without *.yaml files")
        for file in files:
            try:
                yield str(file), file.read_text(encoding="utf-8")
            except FileNotFoundError:
                raise Rejected(f"{file}: there is no such file") from None
            except (OSError, UnicodeDecodeError) as error:
                raise Rejected(f"{file}: cannot be read: {error}") from error


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
