"""Groups for sources without columns: a regular expression that finds the group's name in an image's key.

An image without a group would be split by its own hash, away from its group: a leak that nobody sees. So one
image that does not match refuses the source, and all of them are counted first.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from pyspark import RDD

from dlspark.data.sources.source import SourceImage
from dlspark.errors import SourceError


def compile_group(pattern: str | None, where: str) -> re.Pattern[str] | None:
    """Return the expression of data.group_key.

    Raises:
        SourceError: it is no regular expression, or has no group.
    """
    if pattern is None:
        return None
    fix = r"set data.group_key to one such as '(patient\d+)', with parentheses around the group's name"
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise SourceError(
            "data.group_key is no regular expression", got=f"{pattern!r} ({error})", where=where, fix=fix
        ) from error
    if not compiled.groups:
        raise SourceError("data.group_key has no group", got=repr(pattern), where=where, fix=fix)
    return compiled


def with_groups(
    images: RDD[SourceImage],
    pattern: str | None,
    *,
    where: str,
    counts: Callable[[str], bool] = lambda key: True,
) -> RDD[SourceImage]:
    """Return the images with the group that `pattern` finds in their keys.

    Costs one more pass over the listing, in one Spark job, if there is a pattern.

    Args:
        images: a listing without groups.
        pattern: a regular expression with a group, or None for no groups at all.
        where: of the source.
        counts: tells by its key whether a file must have a group; picklable.

    Raises:
        SourceError: images do not match; the message has how many and the first of them.
    """
    compiled = compile_group(pattern, where)
    if compiled is None:
        return images

    def group_of(key: str) -> str | None:
        found = compiled.search(key)
        return (found.group(1) or None) if found else None

    keys = images.map(lambda image: image.key).filter(lambda key: counts(key) and group_of(key) is None)
    number, example = keys.map(lambda key: (1, key)).fold((0, ""), _add)
    if number:
        raise SourceError(
            "data.group_key finds no group in the keys of some images",
            got=f"{number} such images, the first of them {example}",
            where=where,
            allowed=f"keys in which {pattern!r} is found",
            fix="correct data.group_key, or move these images out of the source",
        )
    return images.map(lambda image: image._replace(group=group_of(image.key)))


def _add(one: tuple[int, str], other: tuple[int, str]) -> tuple[int, str]:
    return one[0] + other[0], min(filter(None, (one[1], other[1])), default="")
