"""What tests of the catalog share: a batch that is refused changes nothing."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from strategies.intents import everything
from weft.kit.errors import Conflict
from weft.model import drafts
from weft.model.catalog import Catalog


def refused(catalog: Catalog, puts: Iterable[drafts.Draft], field: str, words: str) -> str:
    before = everything(catalog)
    with pytest.raises(Conflict, match=words) as why:
        catalog.apply(puts)
    assert why.value.field == field
    assert everything(catalog) == before
    return why.value.message
