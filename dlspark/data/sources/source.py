"""What ingest asks of a source: a distributed listing of images, and the bytes of one of them.

A listing is cheap (names and lengths, no content) and is never held by the driver. A source travels to the
Spark tasks, so it is a picklable value.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from pyspark import RDD
from pyspark.sql import SparkSession

from dlspark.contracts import Split


class SourceImage(NamedTuple):
    """One image of a source, before anything of it was read."""

    key: str
    """Stable name, unique in its source; a source that is moved or mounted elsewhere keeps its keys."""
    label: str | None
    """Class name; None where the source has none for this image."""
    num_bytes: int
    """Length of the encoded image; -1: it is not there."""
    version: int
    """Changes when the content does: modification time in ns, or a 64-bit hash; in [0, 2^63)."""
    split: Split | None = None
    """Where the source itself says so; None leaves it to the hash of the key."""
    group: str | None = None
    """Images of one group (a patient, a product) share a split; None: a group of its own."""
    content: bytes | None = None
    """The encoded image itself, where the source ships it (tables); None elsewhere, and for bombs."""


class Source(Protocol):
    """A place that images come from."""

    url: str
    """What the user named, absolute."""
    ships_content: bool
    """Whether `images(..., with_content=True)` has the bytes, so that `read` is not needed."""

    lists_other_files: bool
    """Whether `images` also yields files whose names are no image's; ingest counts and leaves them out."""

    def images(self, spark: SparkSession, *, with_content: bool = False) -> RDD[SourceImage]:
        """Return the listing, made by Spark tasks.

        Args:
            spark: the session.
            with_content: fill `content` where the source ships it. Listing alone never reads images.

        Raises:
            SourceError: the source is missing or is not of its kind.
        """
        ...

    def path_of(self, image: SourceImage) -> str:
        """Return where an image lies, for messages and the quarantine table."""
        ...

    def read(self, image: SourceImage) -> bytes:
        """Return the encoded bytes of an image; called in Spark tasks.

        Raises:
            OSError: it cannot be read (now; ingest tries again).
        """
        ...
