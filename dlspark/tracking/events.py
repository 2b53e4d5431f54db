"""What a run tells about itself, as plain values: one type for each kind of event, and their form in JSON.

JSON has no NaN and no infinities, so such a value is written as the string that Python's `float` reads back;
a diverged loss is then as visible in MLflow as it was on the rank.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

RunStatus = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricsEvent:
    """Values of metrics at one step."""

    time_ms: int
    """Milliseconds since the epoch, at which the values were recorded."""
    step: int
    """Optimizer steps done since the start of the run; for system metrics the number of the sample."""
    values: Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class ProgressEvent:
    """How far the run is; shown to the user and never sent to MLflow."""

    time_ms: int
    step: int
    num_steps: int
    fields: Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class TagsEvent:
    """Tags of the run, each replacing an earlier one of the same name."""

    time_ms: int
    values: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class ArtifactEvent:
    """A file in the run directory that belongs among the run's artifacts."""

    time_ms: int
    file: str
    """Path relative to the run directory."""
    folder: str
    """Folder among the artifacts; empty for their root."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StatusEvent:
    """The run took this status at this time."""

    time_ms: int
    status: RunStatus


Event = MetricsEvent | ProgressEvent | TagsEvent | ArtifactEvent | StatusEvent

_KINDS: dict[str, type[Event]] = {
    "metrics": MetricsEvent,
    "progress": ProgressEvent,
    "tags": TagsEvent,
    "artifact": ArtifactEvent,
    "status": StatusEvent,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}


def encode_events(events: Iterable[Event]) -> bytes:
    """Return events as JSON lines, one event a line."""
    lines = []
    for event in events:
        fields = {name: _to_plain(getattr(event, name)) for name in event.__slots__}
        lines.append(json.dumps({"kind": _NAMES[type(event)], **fields}, allow_nan=False))
    return ("\n".join(lines) + "\n").encode()


def decode_events(data: bytes) -> list[Event]:
    """Rebuild the events of `encode_events`.

    Raises:
        ValueError: a line is no event.
    """
    return [_decode_line(line) for line in data.decode().splitlines() if line]


def _decode_line(line: str) -> Event:
    fields: dict[str, Any] = json.loads(line)
    kind = _KINDS[fields.pop("kind")]
    if kind is MetricsEvent:
        fields["values"] = {name: float(value) for name, value in fields["values"].items()}
    elif kind is ProgressEvent:
        fields["fields"] = {name: float(value) for name, value in fields["fields"].items()}
    return kind(**fields)


def _to_plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _to_plain(item) for name, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    return value
