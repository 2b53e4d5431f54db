"""What an audit found, in plain values."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditReport:
    """What an audit found."""

    num_rows: int
    """Originals."""
    num_flat: int
    """Of those, pictures without visible content, which were only compared exactly."""
    num_candidates: int
    """Pairs with near hashes that were checked."""
    num_pairs: dict[str, int]
    """Pairs by kind: same_bytes, same_pixels, near. Of n rows with the same pixels not all n^2 pairs are
    listed, but those with the first in the order train, val, test, and with the first with the same bytes."""
    num_leaks: dict[str, int]
    """Pairs in two splits, by kind."""
    num_leaks_between: dict[str, int]
    """Pairs in two splits, by "train-val", "train-test", "val-test"."""
    num_conflicts: dict[str, int]
    """Pairs with different labels, by kind."""
    num_clusters: int
    num_spanning_clusters: int
    """Clusters with rows in more than one split."""
    largest_cluster: int
    """Rows."""
    num_moves: int
    """Rows in val and test that must move to train so that no cluster spans splits."""
    num_capped: int
    """Rows left out of an overfull bucket, once for each bucket; near twins of theirs may be missing."""
    max_distance: int
    seconds: float
    pairs_path: str
    """URL of the folder with the pairs table."""
    examples: tuple[dict[str, Any], ...]
    """Rows of the pairs table: leaks and conflicts first."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self) | {"examples": list(self.examples)}
