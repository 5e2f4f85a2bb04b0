"""The table that /v1 is made of: what each kind's names and collections look like in a URL, and its filters."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from weft.kit.errors import Missing, Rejected
from weft.model import objects
from weft.model.names import PATTERNS, Kind, Name, parse_label

#: Stands for every tenant, or every domain, in a collection's path.
ANY = "-"


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind in URLs. labels: the variables of an object's path; the last names the object itself."""

    kind: Kind
    path: str
    labels: tuple[str, ...]
    fields: frozenset[str]

    @property
    def collection(self) -> str:
        return self.path.rpartition("/")[0]

    def name(self, variables: Mapping[str, str]) -> Name:
        path = self.path.format_map(variables)
        for label in self.labels:
            try:
                parse_label(variables[label])
            except Rejected as error:
                raise Missing(f"there is no {path}: {error.message}", "name") from error
        return Name(path)

    def selection(self, variables: Mapping[str, str]) -> tuple[str, Callable[[Name], bool] | None]:
        """(what names of the collection begin with, what else must hold of them)."""
        path = self.collection.format_map(variables) + "/"
        for label in self.labels[:-1]:
            if variables[label] != ANY:
                try:
                    parse_label(variables[label])
                except Rejected as error:
                    raise Missing(f"there is no {path}: {error.message}", "name") from error
        wanted = path.split("/")
        if ANY not in wanted[1::2]:
            return path, None
        prefix = "/".join(wanted[: wanted.index(ANY, 1)]) + "/"
        given = [(at, label) for at, label in enumerate(wanted[:-1]) if at % 2 and label != ANY]

        def matches(name: Name) -> bool:
            segments = name.split("/")
            return all(segments[at] == label for at, label in given)

        return prefix, matches if given else None


def _resource(kind: Kind, of: type[objects.Object]) -> Resource:
    segments = PATTERNS[kind].split("/")
    labels = tuple(collection.rstrip("s").replace("-", "_") for collection in segments[::2])
    path = "/".join(f"{collection}/{{{label}}}" for collection, label in zip(segments[::2], labels, strict=True))
    return Resource(kind, path, labels, frozenset(field.name for field in fields(of)) - {"name"})


RESOURCES: Mapping[Kind, Resource] = {kind: _resource(kind, of) for of, kind in objects.KINDS.items()}


def filter_by(resource: Resource, wanted: Mapping[str, str]) -> Callable[[Name, objects.Object], bool]:
    """Whether an object has these values: a field's own, one of its list's, or a reference's full or short name."""
    for field in wanted:
        if field not in resource.fields:
            known = ", ".join(sorted(resource.fields))
            raise Rejected(f"a {resource.kind.value} has no field {field!r} to filter by; it has {known}", field)

    def matches(_name: Name, value: objects.Object) -> bool:
        return all(_is(getattr(value, field), text) for field, text in wanted.items())

    return matches


def _is(value: Any, text: str) -> bool:
    match value:
        case None:
            return text in ("", "null")
        case str():
            return value == text or (text.count("/") < value.count("/") and text in _short(value))
        case tuple():
            return any(_is(each, text) for each in value)
        case int():
            return str(value) == text
        case objects.Pool() | objects.AddressPair():
            return _is(value.prefix, text)
        case objects.RuleChange():
            return _is(value.sending, text) or _is(value.accepted, text)
        case objects.Uplink():
            return _is(value.provider_network, text) or _is(value.interface, text) or _is(value.pas, text)
        case _:
            return False


def _short(reference: str) -> list[str]:
    """The short forms of a name: its labels, from any on. Text that is no name has none that begin with a letter."""
    labels = reference.split("/")[1::2]
    return ["/".join(labels[at:]) for at in range(len(labels))]


def continue_after(name: Name) -> str:
    """An opaque token for the part of a list that follows a name."""
    return base64.urlsafe_b64encode(name.encode()).decode().rstrip("=")


def read_continue(token: str) -> str:
    try:
        return base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise Rejected(f"{token!r} is not what an answer had as its 'continue'", "continue") from error
