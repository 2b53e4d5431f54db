"""What is wrong with the hosts of a cluster, judged from the records of all of them.

A fault that several hosts share is one finding that names them. What would stop or spoil a training is an
error; what may do so later is a warning.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dlspark.cluster.connections import REFUSALS
from dlspark.cluster.finding import Finding, by_value, named, some
from dlspark.cluster.hosts import DriverRecord, HostRecord, Survey
from dlspark.cluster.versions import MISSING

_GIB = 2**30
_CLOCK_SECONDS = 2.0
"""Failures are put in order, and metrics dated, by the clocks of the hosts."""
_LEAST_DISK_BYTES = 1 * _GIB
_LEAST_SHARED_BYTES = _GIB // 4
"""NCCL passes data between the GPUs of a host through it; a container of Docker has 64 MiB."""


def judge(survey: Survey, *, packages: Sequence[str]) -> tuple[Finding, ...]:
    """Return all findings, errors first.

    Args:
        survey: the records of driver and hosts.
        packages: whose versions must be the same everywhere; see `packages_in_use`.
    """
    driver, hosts = survey.driver, survey.hosts
    found = [
        *judge_versions(driver, hosts, packages),
        *judge_listening(hosts),
        *judge_connections(driver, hosts),
        *judge_dataset(driver, hosts),
        *judge_run_dir(driver, hosts),
        *judge_clocks(hosts),
        *judge_room(hosts),
    ]
    return tuple(sorted(found, key=lambda finding: finding.severity))


def judge_versions(
    driver: DriverRecord, hosts: Sequence[HostRecord], packages: Sequence[str]
) -> Iterator[Finding]:
    """Find packages of other versions than the driver's, and a Horovod without PyTorch."""
    for name in packages:
        here = driver.versions[name]
        different = [host for host in hosts if host.versions[name] != here]
        if not different or here == MISSING:
            continue
        # Spark itself refuses another minor version; of one, all releases read the same pickles.
        is_patch = name == "python" and all(_minor(host.versions[name]) == _minor(here) for host in different)
        by_version = by_value((host.versions[name], host.host) for host in different)
        where = named(host.host for host in different)
        yield Finding(
            severity="warning" if is_patch else "error",
            subject=name,
            what=f"{name} is another one on executors than on the driver",
            got="; ".join(f"{version} on {named(names)}" for version, names in by_version.items()),
            allowed=f"{here}, as on the driver",
            where=where,
            fix=f"install {name} {here} for the Python of the executors on {where}",
        )
    if "horovod" in packages:
        without = [
            host.host for host in hosts if host.versions["horovod"] != MISSING and not host.has_horovod_torch
        ]
        if without:
            yield Finding(
                severity="error",
                subject="horovod",
                what="Horovod was built without PyTorch on executors",
                got="no library for PyTorch",
                where=named(without),
                fix="run `make setup` there, which builds it for this torch, or set cluster.backend=torch",
            )


def judge_listening(hosts: Sequence[HostRecord]) -> Iterator[Finding]:
    """Find hosts that cannot listen as cluster.port_range and cluster.network_interface say."""
    for key, (what, fix) in REFUSALS.items():
        refused = {
            host.host: host.cannot_listen[1]
            for host in hosts
            if host.cannot_listen and host.cannot_listen[0] == key
        }
        if refused:
            yield Finding(
                severity="error",
                subject="connections",
                what=what,
                got=some([f"{got} on {host}" for host, got in refused.items()], "; "),
                where=named(refused),
                fix=fix,
            )


def judge_connections(driver: DriverRecord, hosts: Sequence[HostRecord]) -> Iterator[Finding]:
    """Find pairs of hosts that do not connect; ranks meet at rank 0's host, and do without the driver."""
    cut_off = {host.host: host.driver_error for host in hosts if host.driver_error is not None}
    if cut_off:
        yield Finding(
            severity="warning",
            subject="connections",
            what="executors do not reach the driver, so whether they reach each other was not tried",
            got=some([f"{host}: {error}" for host, error in cut_off.items()], "; "),
            where=named(cut_off),
            fix=f"open the TCP ports of {driver.host} to the executors, or let spark.driver.host name an "
            "address of it that they have a route to",
        )
    pairs = []
    for host, failed in ((each, failed) for each in hosts for failed in each.unreachable):
        other = hosts[failed.to_task]
        to = f"{other.host} at {other.address}:{failed.port}"
        pairs.append(f"{host.host} ({failed.source}) -> {to}: {failed.error}")
    if pairs:
        yield Finding(
            severity="error",
            subject="connections",
            what="executors do not reach each other",
            got=some(pairs, "; "),
            where=named(host.host for host in hosts if host.unreachable),
            fix="open all TCP ports between the executors' hosts (those of cluster.port_range, and those of "
            "net.ipv4.ip_local_port_range, from which gloo and NCCL take theirs), and let each address of a "
            "host (SPARK_LOCAL_IP or cluster.network_interface) be one that the others have a route to",
        )


def judge_dataset(driver: DriverRecord, hosts: Sequence[HostRecord]) -> Iterator[Finding]:
    """Find hosts that do not read the dataset, or read another one."""
    if driver.dataset is None:
        return
    able = [host for host in hosts if host.versions["dlspark"] != MISSING]
    for error, names in by_value((host.dataset_error, host.host) for host in able).items():
        if error is None:
            continue
        yield Finding(
            severity="error",
            subject="dataset",
            what=f"executors cannot read the dataset: {named(names)}",
            got=error,
            where=driver.dataset,
            fix="put the dataset on storage that every executor reaches (a shared mount, s3://...), and "
            "give the executors' user and credentials the right to read it",
        )
    different = [host.host for host in able if host.dataset_digest not in {None, driver.dataset_digest}]
    if different:
        yield Finding(
            severity="error",
            subject="dataset",
            what=f"executors see another dataset at the same place: {named(different)}",
            got="another manifest",
            allowed="the one that the driver reads",
            where=driver.dataset,
            fix="put the dataset on storage that driver and executors share",
        )


def judge_run_dir(driver: DriverRecord, hosts: Sequence[HostRecord]) -> Iterator[Finding]:
    """Find hosts that cannot write into the run directory, or write to a disk of their own."""
    if driver.run_dir is None:
        return
    where = f"run_dir={driver.run_dir}"
    shared = "set run_dir to a place that the driver and every executor reach: s3://... or a shared mount"
    if driver.run_dir_error is not None:
        yield Finding(
            severity="error",
            subject="run directory",
            what=f"the driver on {driver.host} cannot write into the run directory",
            got=driver.run_dir_error,
            where=where,
            fix="give the driver's user the right to write there, or choose another run_dir",
        )
        return
    able = [host for host in hosts if host.versions["dlspark"] != MISSING]
    for error, names in by_value((host.run_dir_error, host.host) for host in able).items():
        if error is not None:
            yield Finding(
                severity="error",
                subject="run directory",
                what=f"executors cannot write into the run directory: {named(names)}",
                got=error,
                where=where,
                fix=f"give the executors' user the right to write there, or {shared}",
            )
    apart = [host.host for host in able if not host.sees_driver_file]
    if apart:
        yield Finding(
            severity="error",
            subject="run directory",
            what=f"executors would write to a disk of their own: {named(apart)}",
            got="what the driver writes into the run directory is not there",
            where=where,
            fix=shared,
        )


def judge_clocks(hosts: Sequence[HostRecord]) -> Iterator[Finding]:
    """Find clocks that are certainly off: the difference is known as closely as messages are fast."""
    off = {}
    for host in hosts:
        low, high = host.clock_seconds or (0.0, 0.0)
        certain = low if low > 0 else min(high, 0.0)
        if abs(certain) > _CLOCK_SECONDS:
            off[host.host] = f"{abs(certain):.1f} s {'ahead' if certain > 0 else 'behind'} on {host.host}"
    if off:
        yield Finding(
            severity="warning",
            subject="clocks",
            what="clocks of executors differ from the driver's",
            got=some(list(off.values()), "; "),
            allowed=f"{_CLOCK_SECONDS:g} s",
            where=named(off),
            fix="synchronise the clocks of these hosts and of the driver's (`chronyc makestep`)",
        )


def judge_room(hosts: Sequence[HostRecord]) -> Iterator[Finding]:
    """Find disks that are nearly full, and shared memory that is too small for GPUs."""
    full = {}
    for host in hosts:
        if host.temporary_free_bytes < _LEAST_DISK_BYTES:
            full[f"{host.temporary_folder} on {host.host}"] = host.temporary_free_bytes
        if host.run_dir_free_bytes is not None and host.run_dir_free_bytes < _LEAST_DISK_BYTES:
            full[f"the run directory's disk on {host.host}"] = host.run_dir_free_bytes
    if full:
        yield Finding(
            severity="warning",
            subject="disk",
            what="there is little room on disks",
            got=some([f"{_gib(free)} free for {name}" for name, free in full.items()], "; "),
            allowed=f"{_gib(_LEAST_DISK_BYTES)} or more",
            where=some(list(full), ", "),
            fix="make room there, or let TMPDIR of executors and run_dir name larger disks",
        )
    small = {
        host.host: host.shared_free_bytes
        for host in hosts
        if host.has_gpu
        and host.shared_free_bytes is not None
        and host.shared_free_bytes < _LEAST_SHARED_BYTES
    }
    if small:
        yield Finding(
            severity="warning",
            subject="shared memory",
            what="there is little shared memory for GPUs of one host to talk through",
            got=some([f"{_gib(free)} free on {host}" for host, free in small.items()], "; "),
            allowed=f"{_gib(_LEAST_SHARED_BYTES)} or more",
            where=named(small),
            fix="start the containers with more of it (docker run --shm-size=1g; on Kubernetes, an emptyDir "
            "of medium Memory at /dev/shm)",
        )


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / _GIB:.2g} GiB"


def _minor(version: str) -> str:
    return version.rpartition(".")[0]
