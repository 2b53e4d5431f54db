"""The commands of the README, by section: what the tests run is what the newcomer reads."""

from __future__ import annotations

import re

from tests.e2e.commands import REPOSITORY


def commands_by_section() -> dict[str, list[str]]:
    """Return heading -> commands of its bash blocks; lines that end in a backslash are joined."""
    text = (REPOSITORY / "README.md").read_text()
    sections: dict[str, list[str]] = {}
    parts = re.split(r"^#+ (.*)$", text, flags=re.MULTILINE)
    for heading, body in zip(parts[1::2], parts[2::2], strict=True):
        blocks = re.findall(r"^```bash\n(.*?)^```$", body, flags=re.MULTILINE | re.DOTALL)
        lines = "".join(blocks).replace("\\\n", " ").splitlines()
        sections[heading] = [line for line in lines if line.strip()]
    return sections
