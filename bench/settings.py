"""How much is measured. A quick run shows that everything works; its values say nothing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    quick: bool = False
    seconds: float = 0.5  # of one measurement of one side
    pairs: int = 15
    records: int = 1_000_000
    requests: int = 300  # of the API
    repeats: int = 5  # of what has no other side
    ports: int = 20_000  # created through batch apply
    domain_ports: int = 40_000
    domain_hosts: int = 500
    growth_ports: int = 1_000_000  # the last step
    turn_s: float = 0.05  # of one side, where sides take turns: more turns tell more than longer ones
    turns: int = 25
    runs: int = 4  # of so many turns; each in a topology set up anew, but for openvswitch's
    set_ups: int = 6  # of guarded, whose sides are topologies of their own; even, so that either is first as often

    @classmethod
    def of(cls, *, quick: bool, seconds: float | None) -> Settings:
        if quick:
            return cls(
                True, seconds or 0.3, 3, 20_000, requests=20, repeats=2, ports=2_000, domain_ports=400, domain_hosts=20,
                growth_ports=10_000, turn_s=0.02, turns=5, runs=1, set_ups=2,
            )  # fmt: skip
        return cls(seconds=seconds or 0.5, turn_s=(seconds or 0.5) / 10)

    @classmethod
    def least(cls) -> Settings:
        """For tests: each bench measures, once, and as little as it can."""
        return cls(
            True, 0.1, 1, 1_000, requests=2, repeats=1, ports=100, domain_ports=40, domain_hosts=4, growth_ports=1_000,
            turn_s=0.01, turns=2, runs=1, set_ups=1,
        )  # fmt: skip
