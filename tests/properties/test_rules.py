"""Make before break: whatever is asked for, and however late each host is, no host sends what another does not take."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from budget import examples
from strategies.intents import ABLE, domain, network, subnet, tenant
from weft.model import drafts, rules
from weft.model.catalog import Catalog
from weft.model.features import Rule
from weft.model.names import Name
from weft.model.objects import VirtualSubnet

WEB = Name("tenants/blue/routing-domains/prod/virtual-subnets/web")
HOSTS = 3


class Machine(RuleBasedStateMachine):
    """A subnet and what each host last heard of it. A step is taken as the controller does: once all have the last."""

    def __init__(self) -> None:
        super().__init__()
        self.catalog = Catalog(ABLE)
        self.catalog.apply(
            [
                network(),
                tenant("blue"),
                domain("blue/prod"),
                subnet("blue/prod/web", "10.0.1.0/24", vlan=7, provider_network="fabric"),
            ]
        )
        self.heard = [self.present] * HOSTS

    @property
    def present(self) -> VirtualSubnet:
        return self.catalog.virtual_subnets[WEB]

    @rule(wanted=st.sampled_from(list(Rule)))
    def wish(self, wanted: Rule) -> None:
        self.catalog.apply([subnet("blue/prod/web", "10.0.1.0/24", rule=wanted.value)])
        assert self.present.rule is wanted

    @rule(host=st.integers(0, HOSTS - 1))
    def catch_up(self, host: int) -> None:
        self.heard[host] = self.present

    @rule()
    def step(self) -> None:
        if all(heard == self.present for heard in self.heard):
            self._step()

    def _step(self) -> None:
        following = rules.next_step(self.present)
        self.catalog.apply([drafts.VirtualSubnet(WEB, ("10.0.1.0/24",), rule_change=following)])

    @invariant()
    def what_a_host_sends_every_host_takes(self) -> None:
        for sender in self.heard:
            for receiver in self.heard:
                assert sender.sending_rule in receiver.accepted_rules

    @invariant()
    def an_object_says_its_change_in_one_way_only(self) -> None:
        now = self.present
        assert rules.change(now.rule, now.sending_rule, now.accepted_rules) == now.rule_change
        assert (now.rule_change is None) == (rules.phase(now) is rules.Phase.SETTLED)

    def teardown(self) -> None:
        for _ in range(2):
            self.heard = [self.present] * HOSTS
            self._step()
        assert self.present.rule_change is None, "two steps, and all is as it was wished"


TestMachine = Machine.TestCase
TestMachine.settings = examples(60, steps=20)
