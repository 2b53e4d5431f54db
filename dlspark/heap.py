"""What the C library does with memory that is freed, for work that wants as much again at once.

A step of a training, or a file of a dataset, is some buffers of many megabytes. glibc gives them back to the
kernel when they are freed, and gets them again, page by page and zeroed, for the next one: on a CPU a third
of the time of a step of a small network, a sixth of that of a ResNet-50. It can be told to keep them.
"""

from __future__ import annotations

import ctypes
import functools
import os

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""`man 3 mallopt`, glibc."""
_LARGEST_KEPT_BUFFER = 32 * 1024**2
"""In bytes; glibc takes no more."""
_ALL = -1


@functools.cache
def keep_freed_memory(most: int = _ALL) -> None:
    """Have this process keep the memory of freed buffers of up to 32 MiB each, instead of giving it back.

    Nothing happens where the C library is not glibc, or where the person who started the process has set
    MALLOC_TRIM_THRESHOLD_ or MALLOC_MMAP_THRESHOLD_, its own variables for this.

    Args:
        most: bytes that may lie free at the end of the heap; without it, there is no limit: the process stays
            as large as it was at its largest.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):  # macOS and musl, whose ways are their own
        return
    if "MALLOC_TRIM_THRESHOLD_" not in os.environ and "MALLOC_MMAP_THRESHOLD_" not in os.environ:
        library.mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT_BUFFER)
        library.mallopt(_M_TRIM_THRESHOLD, most)
