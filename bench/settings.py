"""How much is measured. A quick run shows that everything works; its values say nothing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    quick: bool = False
    seconds: float = 0.5  # of one measurement of one side: more pairs tell more than longer ones
    pairs: int = 15
    records: int = 1_000_000
    requests: int = 300  # of the API
    repeats: int = 5  # of what has no other side
    ports: int = 20_000  # created through batch apply
    domain_ports: int = 40_000
    domain_hosts: int = 500

    @classmethod
    def of(cls, *, quick: bool, seconds: float | None) -> Settings:
        if quick:
            return cls(
                True, seconds or 0.3, 3, 20_000, requests=20, repeats=2, ports=2_000, domain_ports=400, domain_hosts=20
            )
        return cls(seconds=seconds or 0.5)
