"""An archive of the classes that Spark loads, which the JVMs of local sessions map instead of reading jars.

With it a local session is there in half the time (class data sharing of the JVM, JEP 350). `make setup` makes
the archive once, in the Python environment whose Spark it is of; without one all works as before. A JVM that
it does not fit, after a change of the jars, leaves it alone.
"""

from __future__ import annotations

import sys
from pathlib import Path

# What a JVM has to say of an archive that does not fit would go to stdout.
_SILENT = "-Xlog:cds=off -Xlog:cds+dynamic=off"


def archive_options(java_version: str) -> str:
    """Return the options with which a JVM uses the archive; none if there is none.

    Args:
        java_version: of that JVM.
    """
    archive = archive_file(java_version)
    return f"-XX:SharedArchiveFile={archive} {_SILENT}" if archive.exists() else ""


def recording_options(archive: Path) -> str:
    """Return the options with which a JVM writes, at its end, the classes that it has loaded."""
    return f"-XX:ArchiveClassesAtExit={archive} {_SILENT}"


def archive_file(java_version: str) -> Path:
    """Return the archive for this environment's Spark under a version of Java."""
    import pyspark

    return Path(sys.prefix, "share", "dlspark", f"spark-{pyspark.__version__}-java-{java_version}.jsa")
