"""One thing that is wrong on a cluster, and how several of them are told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from dlspark.errors import ClusterError

Severity = Literal["error", "warning"]

_MOST_NAMED = 5


def require_sound(findings: Sequence[Finding]) -> None:
    """Return if there is no error among findings.

    Raises:
        ClusterError: there is; it lists all of them.
    """
    errors = [finding.as_error() for finding in findings if finding.severity == "error"]
    if len(errors) == 1:
        raise errors[0]
    if not errors:
        return
    error = ClusterError(f"the cluster cannot do this, for {len(errors)} reasons")
    error.args = ("\n".join((str(error), *(f"  {number}. {each}" for number, each in enumerate(errors, 1)))),)
    raise error


def by_value(pairs: Iterable[tuple[str | None, str]]) -> Mapping[str | None, list[str]]:
    """Return value -> the hosts that have it."""
    hosts: dict[str | None, list[str]] = {}
    for value, host in pairs:
        hosts.setdefault(value, []).append(host)
    return hosts


def named(hosts: Iterable[str]) -> str:
    """Return the names of hosts, each once, in order."""
    return some(sorted(set(hosts)), ", ")


def some(parts: Sequence[str], separator: str) -> str:
    """Return the first parts as one text, and how many more there are."""
    rest = len(parts) - _MOST_NAMED
    return separator.join((*parts[:_MOST_NAMED], *([f"and {rest} more"] if rest > 0 else [])))


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that is not as it should be, and the line that repairs it."""

    severity: Severity
    subject: str
    """What was looked at, in a word or two: a package, `clocks`, `disk`, `connections`, `dataset`."""
    what: str
    got: str
    allowed: str | None = None
    where: str
    fix: str

    def as_error(self) -> ClusterError:
        """Return an error that says the same."""
        return ClusterError(self.what, got=self.got, allowed=self.allowed, where=self.where, fix=self.fix)
