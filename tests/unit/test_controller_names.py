from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from budget import examples
from weft.controller.names import Names
from weft.model.names import Name

_NAMES = st.sampled_from([Name(f"tenants/{t}/ports/{p}") for t in ("a", "a-b", "b") for p in ("p", "p-1", "p1", "q")])


@examples(100)
@given(steps=st.lists(st.tuples(_NAMES, st.booleans()), max_size=30), after=_NAMES | st.just(Name("")))
def test_names_are_what_a_sorted_set_would_be(steps: list[tuple[Name, bool]], after: Name) -> None:
    names, model = Names(), set[Name]()
    for name, looks in steps:
        if name in model:
            names.remove(name)
            model.remove(name)
        else:
            names.add(name)
            model.add(name)
        if looks:
            assert names.below("") == sorted(model)
        assert len(names) == len(model)
    for prefix in ("", "tenants/a/", "tenants/a-b/", "tenants/c/"):
        assert names.below(prefix, after) == sorted(name for name in model if name.startswith(prefix) and name > after)
