"""An environment for peers that need other packages than dlspark: theirs first, and behind them dlspark's.

So torch and torchvision are the same for everybody. It is made once for each list of requirements, in the
cache of dlspark, in a few minutes.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

_REQUIREMENTS = Path(__file__).with_name("peers_requirements.txt")


def peer_python() -> Path:
    """Return the Python of the peers' environment; make it if it is not there."""
    cache = Path(os.environ.get("DLSPARK_CACHE", "~/.cache/dlspark")).expanduser()
    ours = sysconfig.get_paths()["purelib"]
    wanted = hashlib.sha256(_REQUIREMENTS.read_bytes() + ours.encode()).hexdigest()
    folder = cache / f"peers-{wanted[:12]}"
    python, done = folder / "bin" / "python", folder / "done"
    if not done.exists():
        venv.create(folder, clear=True, symlinks=True)
        paths = sysconfig.get_paths("venv", vars={"base": str(folder), "platbase": str(folder)})
        Path(paths["purelib"], "dlspark_packages.pth").write_text(f"{ours}\n")
        # pip warns that dlspark wants other versions: it is not imported there.
        command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
        subprocess.run([*command, "--requirement", str(_REQUIREMENTS)], check=True)
        done.touch()
    return python
