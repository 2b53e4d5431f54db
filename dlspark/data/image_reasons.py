"""Why an image is refused: the codes of the quarantine table, and the error that carries one."""

from __future__ import annotations

from typing import Literal

Reason = Literal[
    "missing",
    "zero_size",
    "unreadable_header",
    "truncated_body",
    "bomb",
    "unsupported_mode",
    "wrong_size",
    "below_minimum_size",
    "constant_image",
    "unknown_label",
    "duplicate",
    "conflicting_label",
]
"""Why an image is refused.

Known before a byte is decoded:

- missing: the list names a file that is not there;
- unknown_label: no class, or one that is not among the classes;
- duplicate: the same bytes as another image, which is kept;
- conflicting_label: the same bytes as an image of another class;
- zero_size: no bytes.

Found while decoding, looked for in this order:

- unreadable_header: no image of a known format;
- bomb: more bytes or pixels than allowed;
- unsupported_mode: values with no documented meaning as 8 bits (floating point, LAB);
- below_minimum_size: the shorter side has fewer pixels than the ingest asks for;
- truncated_body: the pixels cannot be decoded in full, or a checksum in the file does not fit;
- wrong_size: another size than the dataset's, where none is to be resized (a JPEG's is known before it is
  decoded);
- constant_image: all pixels are the same, and the ingest asks for more than that.
"""


class ImageError(ValueError):
    """One image cannot become pixels; ingest quarantines it under `reason`."""

    def __init__(self, reason: Reason, message: str) -> None:
        """Keep the reason code beside the message."""
        super().__init__(reason, message)
        self.reason, self.message = reason, message

    def __str__(self) -> str:
        """Return reason and message."""
        return f"{self.reason}: {self.message}"
