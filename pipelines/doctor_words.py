"""What the doctor says of the hosts where nothing is wrong: one line for each thing that was looked at."""

from __future__ import annotations

from dlspark.cluster.hosts import Survey

_GIB = 2**30


def describe_hosts(survey: Survey) -> dict[str, str]:
    """Return the subject of each finding that there may be -> what was found if there is none.

    The versions come first, and are the driver's, with those of executors that need not be the same.
    """
    driver, hosts = survey.driver, survey.hosts
    names = sorted({host.host for host in hosts})
    lines = {"executors": f"{len(hosts)} tasks on {', '.join(names)}, looked at in {survey.seconds:.1f} s"}
    for package, version in driver.versions.items():
        others = {host.versions[package] for host in hosts} - {version}
        lines[package] = ", ".join((version, *(f"{other} on executors" for other in sorted(others))))
    num_addresses = len({host.address for host in hosts})
    lines["connections"] = f"all {num_addresses} hosts reach each other" if num_addresses > 1 else "one host"
    if driver.dataset is not None:
        lines["dataset"] = f"{driver.dataset.rpartition('/')[0]}, the same on all hosts"
    if driver.run_dir is not None:
        lines["run directory"] = f"{driver.run_dir}, written from all hosts"
    off = max((abs(bound) for host in hosts for bound in host.clock_seconds or ()), default=0.0)
    lines["clocks"] = f"at most {off:.2f} s off the driver's"
    lines["disk"] = f"{_least([host.temporary_free_bytes for host in hosts])} free for temporary files"
    if on_disk := [host.run_dir_free_bytes for host in hosts if host.run_dir_free_bytes is not None]:
        lines["disk"] += f", {_least(on_disk)} for the run"
    if shared := [host.shared_free_bytes for host in hosts if host.shared_free_bytes is not None]:
        lines["shared memory"] = f"{_least(shared)} free"
    return lines


def _least(num_bytes: list[int]) -> str:
    return f"{min(num_bytes) / _GIB:,.1f} GiB"
