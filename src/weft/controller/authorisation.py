"""Who may do what: one table, and one function that reads it. Pure; knows no request, no token and no certificate.

Every route is of one Action. What is not a caller's to know of is hidden, which looks like what is not there; the
decision is made before anybody looks whether it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum, auto

from weft.model.names import PATTERNS, Kind, Name


class Role(StrEnum):
    """What a caller is to this deployment: a closed set."""

    ADMIN = "admin"
    OPERATOR = "operator"
    TENANT_ADMIN = "tenant-admin"
    TENANT_READER = "tenant-reader"
    HOST = "host"
    CONTROLLER = "controller"
    NOBODY = "nobody"  # has not said who it is

    @property
    def is_tenants(self) -> bool:
        return self in (Role.TENANT_ADMIN, Role.TENANT_READER)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. name: as the audit log has it. of: the tenant or the host whose it is. where: it calls from."""

    role: Role
    name: str = ""
    of: Name | None = None
    where: str = ""

    @property
    def tenant(self) -> Name | None:
        """The only tenant that there is for it; None: it is no tenant's."""
        return self.of if self.role.is_tenants else None


class Action(Enum):
    """What requests are about."""

    GREET = auto()  # is anybody there, whom do you trust, let me join: a token of its own says who may
    KNOW = auto()  # what every caller with a name may know: the API's description, who it is itself
    MEASURE = auto()  # figures of everything
    READ_UNDERLAY = auto()  # hosts, provider networks
    WRITE_UNDERLAY = auto()
    READ_TENANT = auto()  # a tenant itself, and what it may use
    WRITE_TENANT = auto()
    READ_INTENT = auto()  # what is a tenant's
    WRITE_INTENT = auto()
    LIST_INTENT = auto()  # of a kind that is tenants', over several of them: each is shown its own
    APPLY = auto()  # writes of several kinds: each object is decided on its own
    WATCH = auto()  # as LIST_INTENT
    TRACE = auto()  # shows hosts on the way
    READ_FEED = auto()
    SPEAK_AS_HOST = auto()
    SPEAK_AS_CONTROLLER = auto()  # what controllers tell each other
    ADMIT_HOST = auto()
    MANAGE_USERS = auto()
    READ_QUOTAS = auto()  # of everybody
    SET_QUOTA = auto()
    AUDIT = auto()
    FOLLOW_AUDIT = auto()


class Verdict(Enum):
    ALLOWED = auto()
    UNKNOWN = auto()  # say who you are
    FORBIDDEN = auto()
    HIDDEN = auto()  # there is nothing there, for this caller


class Denied(Exception):
    """A request that is not its caller's to make. Nothing was done."""

    def __init__(self, verdict: Verdict, detail: str, field: str = "") -> None:
        super().__init__(detail)
        self.verdict = verdict
        self.detail = detail
        self.field = field


#: What each role may do with what is its own; admin and operator own everything, a host itself, tenants their tenant.
MAY: Mapping[Role, frozenset[Action]] = {
    Role.ADMIN: frozenset(Action),
    Role.OPERATOR: frozenset(Action)
    - {Action.MANAGE_USERS, Action.SET_QUOTA, Action.SPEAK_AS_HOST, Action.SPEAK_AS_CONTROLLER},
    Role.TENANT_ADMIN: frozenset({
        Action.GREET, Action.KNOW, Action.READ_TENANT, Action.READ_INTENT, Action.WRITE_INTENT, Action.LIST_INTENT,
        Action.APPLY, Action.WATCH,
    }),
    Role.TENANT_READER: frozenset({
        Action.GREET, Action.KNOW, Action.READ_TENANT, Action.READ_INTENT, Action.LIST_INTENT, Action.WATCH,
    }),
    Role.HOST: frozenset({Action.GREET, Action.KNOW, Action.READ_FEED, Action.SPEAK_AS_HOST}),
    Role.CONTROLLER: frozenset({Action.GREET, Action.KNOW, Action.SPEAK_AS_CONTROLLER}),
    Role.NOBODY: frozenset({Action.GREET}),
}  # fmt: skip

#: What is some tenant's own, so that another tenant must not learn whether it is there.
OF_A_TENANT = frozenset({
    Action.READ_TENANT, Action.WRITE_TENANT, Action.READ_INTENT, Action.WRITE_INTENT, Action.SET_QUOTA,
})  # fmt: skip
#: What is one host's.
OF_A_HOST = frozenset({Action.READ_FEED, Action.SPEAK_AS_HOST})


def decide(caller: Caller, action: Action, owner: Name | None = None) -> Verdict:
    """owner: the tenant or the host that the request is about; None: none, or several."""
    if action is Action.GREET:
        return Verdict.ALLOWED
    if caller.role is Role.NOBODY:
        return Verdict.UNKNOWN
    if caller.role.is_tenants and action in OF_A_TENANT and owner != caller.of:
        return Verdict.HIDDEN
    if action not in MAY[caller.role]:
        return Verdict.FORBIDDEN
    if caller.role is Role.HOST and action in OF_A_HOST and owner != caller.of:
        return Verdict.FORBIDDEN
    return Verdict.ALLOWED


#: Every route that is no kind's, by method and path; a route that is in neither table cannot be made.
_ROUTES: Mapping[tuple[str, str], Action] = {
    ("GET", "/v1/tenants/{tenant}/ports/{port}/connections"): Action.READ_INTENT,
    ("POST", "/v1/apply"): Action.APPLY,
    ("GET", "/v1/watch"): Action.WATCH,
    ("POST", "/v1/trace"): Action.TRACE,
    ("GET", "/v1/hosts/{host}/feed"): Action.READ_FEED,
    ("POST", "/v1/hosts/{host}/status"): Action.SPEAK_AS_HOST,
    ("POST", "/v1/hosts/{host}/announcements"): Action.SPEAK_AS_HOST,
    ("POST", "/v1/hosts/{host}/answers/{question}"): Action.SPEAK_AS_HOST,
    ("GET", "/v1/hosts/{host}/connections"): Action.SPEAK_AS_HOST,
    ("POST", "/v1/hosts/{host}/certificate"): Action.SPEAK_AS_HOST,
    ("POST", "/v1/hosts/{host}/join-tokens"): Action.ADMIT_HOST,
    ("POST", "/v1/join"): Action.GREET,
    ("GET", "/v1/ca"): Action.GREET,
    ("GET", "/v1/tokens"): Action.MANAGE_USERS,
    ("POST", "/v1/tokens"): Action.MANAGE_USERS,
    ("DELETE", "/v1/tokens/{token}"): Action.MANAGE_USERS,
    ("POST", "/v1/revocations"): Action.MANAGE_USERS,
    ("GET", "/v1/quotas"): Action.READ_QUOTAS,
    ("GET", "/v1/quotas/{tenant}"): Action.READ_TENANT,
    ("PUT", "/v1/quotas/{tenant}"): Action.SET_QUOTA,
    ("GET", "/v1/audit"): Action.AUDIT,
    ("GET", "/v1/audit/follow"): Action.FOLLOW_AUDIT,
    ("GET", "/v1/statuses"): Action.SPEAK_AS_CONTROLLER,
    ("POST", "/v1/questions"): Action.SPEAK_AS_CONTROLLER,
    ("GET", "/v1/whoami"): Action.KNOW,
    ("GET", "/healthz"): Action.GREET,
    ("GET", "/metrics"): Action.MEASURE,
    ("GET", "/openapi.json"): Action.KNOW,
}


def of_route(method: str, path: str) -> Action:
    """What a route that is no kind's is about. KeyError: nobody has decided."""
    return _ROUTES[method, path]


def of_object(kind: Kind, method: str) -> Action:
    """What a request for an object, or a tenant's collection of them, is about."""
    reads = method == "GET"
    if kind is Kind.TENANT:
        return Action.READ_TENANT if reads else Action.WRITE_TENANT
    if PATTERNS[kind].startswith("tenants/"):
        return Action.READ_INTENT if reads else Action.WRITE_INTENT
    return Action.READ_UNDERLAY if reads else Action.WRITE_UNDERLAY


def of_collection(kind: Kind, tenant: str | None) -> Action:
    """What a list is about. tenant: the label in its path, if there is one; - is all of them."""
    action = of_object(kind, "GET")
    if action is Action.READ_UNDERLAY or (tenant is not None and tenant != "-"):
        return action
    return Action.LIST_INTENT


_WHY: Mapping[Action, str] = {
    Action.MEASURE: "see figures of everything",
    Action.READ_UNDERLAY: "see hosts and provider networks",
    Action.WRITE_UNDERLAY: "change hosts and provider networks",
    Action.READ_TENANT: "see tenants",
    Action.WRITE_TENANT: "make, change or remove a tenant",
    Action.READ_INTENT: "see what tenants have",
    Action.WRITE_INTENT: "change anything",
    Action.LIST_INTENT: "see what tenants have",
    Action.APPLY: "change anything",
    Action.WATCH: "see what changes",
    Action.TRACE: "follow packets over hosts",
    Action.READ_FEED: "read this host's feed",
    Action.SPEAK_AS_HOST: "speak for this host",
    Action.SPEAK_AS_CONTROLLER: "hear what hosts say to a controller",
    Action.ADMIT_HOST: "let hosts join",
    Action.MANAGE_USERS: "manage users",
    Action.READ_QUOTAS: "see everybody's quotas",
    Action.SET_QUOTA: "set quotas",
    Action.AUDIT: "see who did what",
    Action.FOLLOW_AUDIT: "see who did what",
}


def reason(caller: Caller, action: Action) -> str:
    """Why a verdict was FORBIDDEN, for the caller to read."""
    who = f"{caller.name} is a {caller.role.value}" + (f" of {caller.of}" if caller.role.is_tenants else "")
    return f"{who}, and may not {_WHY.get(action, 'do this')}"
