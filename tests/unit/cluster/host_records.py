"""Records of sound hosts, for tests that spoil one thing in them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dlspark.cluster.hosts import DriverRecord, HostRecord, Survey
from dlspark.cluster.versions import PACKAGES

VERSIONS = {"python": "3.11.9", **dict.fromkeys(PACKAGES, "1.2.3")}


def host_record(task: int, **changes: Any) -> HostRecord:
    """Return the record of a sound host `host-<task>`, with changes."""
    sound = HostRecord(
        task=task,
        host=f"host-{task}",
        address=f"10.0.0.{task}",
        cannot_listen=None,
        versions=VERSIONS,
        has_horovod_torch=True,
        clock_seconds=(-0.3, 0.2),
        temporary_folder="/tmp",  # noqa: S108 - nothing is written there
        temporary_free_bytes=50 * 2**30,
        run_dir_free_bytes=40 * 2**30,
        shared_free_bytes=2**30,
        has_gpu=True,
        dataset_digest="d",
        dataset_error=None,
        sees_driver_file=True,
        run_dir_error=None,
        unreachable=(),
        driver_error=None,
    )
    return replace(sound, **changes)


def driver_record(**changes: Any) -> DriverRecord:
    """Return the record of a sound driver, with changes."""
    sound = DriverRecord(
        host="driver",
        versions=VERSIONS,
        dataset="/data/ds/manifest.json",
        dataset_digest="d",
        run_dir="/data/run",
        run_dir_error=None,
    )
    return replace(sound, **changes)


def survey_of(*hosts: HostRecord, driver: DriverRecord | None = None) -> Survey:
    """Return a survey of hosts."""
    return Survey(driver=driver or driver_record(), hosts=hosts, seconds=0.1)
