"""What operators write by hand is read as they meant it, or refused with the place and what would be right."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budget import examples
from weft.cli import manifests
from weft.kit.errors import Rejected


def read(text: str) -> list[manifests.Manifest]:
    return manifests.read_files(["-"], text)


@pytest.mark.parametrize("mac", ["10:20:30:40:50:51", "02:00:00:00:00:01", "12:34:56:07:08:09"])
def test_a_mac_is_text_and_no_base_60_number(mac: str) -> None:
    assert read(f"name: x\nspec: {{mac: {mac}}}")[0].spec == {"mac": mac}


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("~", None),
        ("", None),
        ("12", 12),
        ("012", "012"),
        ("1_000", "1_000"),
        ("2026-01-01", "2026-01-01"),
        ("0x10", "0x10"),
        ("-3", -3),
        ("1.5", 1.5),
        ("1e3", "1e3"),
        ("10.0.0.1", "10.0.0.1"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(written: str, value: object) -> None:
    assert read(f"name: x\nspec: {{a: {written}}}")[0].spec == {"a": value}


def test_documents_and_lists_may_be_mixed_and_each_object_knows_its_line() -> None:
    found = read("name: tenants/a\n---\n- name: tenants/b\n- name: tenants/c\n  spec: {description: d}\n---\n")
    assert [(each.name, each.place) for each in found] == [
        ("tenants/a", "stdin:1"),
        ("tenants/b", "stdin:3"),
        ("tenants/c", "stdin:4"),
    ]


def test_what_get_prints_is_what_apply_reads() -> None:
    text = "- {name: tenants/a, kind: tenant, revision: 3, spec: {description: x}, status: {}}"
    assert [(each.name, each.spec) for each in read(text)] == [("tenants/a", {"description": "x"})]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: x\nname: y", "stdin: line 2: 'name' is given twice"),
        ("name: x\nspec: {a: 1, a: 2}", "stdin: line 2: 'a' is given twice"),
        ("name: x\nspec: [1", "not YAML: did not find expected"),
        ("- 3", "stdin:1: 3 is not an object such as"),
        ("spec: {}", "stdin:1: name is missing"),
        ("name: 7", "stdin:1: 7 is not a name; a path such as tenants/blue/ports/web-1 is"),
        ("name: ''", "stdin:1: name is missing"),
        ("name: tenants/a\nkind: port", "stdin:1: tenants/a is a tenant, not a 'port': leave the kind out"),
        ("nmae: tenants/a", "'nmae' is no field of an object"),
        ("name: tenants/a\nspec: [1]", "the spec of tenants/a is [1]; it is a mapping"),
        ("name: tenants/a\n---\nname: tenants/a", "stdin:3: tenants/a stands at stdin:1 already"),
        ("x: &a [*a]", "not YAML"),
        ("? [a]\n: 3", "keys are words"),
        ("name: !!python/object:os.system x", "not YAML"),
    ],
)
def test_a_fault_is_told_with_its_place(text: str, said: str) -> None:
    with pytest.raises(Rejected) as caught:
        read(text)
    assert said in caught.value.message
    assert not caught.value.field  # the place comes first, and the field is in the sentence


def test_a_directory_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text("name: tenants/b")
    (tmp_path / "a.yml").write_text("name: tenants/a")
    (tmp_path / "notes.txt").write_text("- not read")
    assert [each.name for each in manifests.read_files([str(tmp_path)])] == ["tenants/a", "tenants/b"]


@pytest.mark.parametrize("given_path", ["missing.yaml", "."])
def test_a_path_without_objects_is_refused(tmp_path: Path, given_path: str) -> None:
    with pytest.raises(Rejected, match=r"no such file|without \*.yaml"):
        manifests.read_files([str(tmp_path / given_path)])


@examples(100)
@given(st.one_of(st.text(max_size=60), st.text(alphabet="name: spec-{}[]&*!|>#\n'\"?,%@ax1", max_size=60)))
def test_no_text_does_worse_than_be_refused(text: str) -> None:
    try:
        found = read(text)
    except Rejected as error:
        message = error.message
    else:
        message = "stdin" if all(each.name for each in found) else "a nameless object"
    assert message.startswith(("stdin", "the files"))
