"""Memory for the file that is being stored: it begins at a page, and is kept for the next file.

What is written from such memory is not copied into the page cache on its way, see `storage.write_bytes`.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager

_kept: list[mmap.mmap] = []
"""Of this process; as many as threads have stored files at the same time."""


@contextmanager
def borrow_pages(num_bytes: int) -> Iterator[mmap.mmap]:
    """Give memory of at least so many bytes, whose content is arbitrary; nobody may use it after the block.

    Pages that nobody has written to take no memory, so that there may be more than will be needed.
    """
    try:
        pages = _kept.pop()
    except IndexError:
        pages = None
    if pages is None or len(pages) < num_bytes:
        pages = mmap.mmap(-1, num_bytes)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            pages.madvise(mmap.MADV_HUGEPAGE)
    try:
        yield pages
    finally:
        _kept.append(pages)
