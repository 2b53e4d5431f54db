"""A real standalone Spark cluster on this host: a master and one-core workers, from pip's pyspark."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pyspark

SPARK_HOME = Path(pyspark.__file__).parent
SHORT_LIVED_JVM = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
"""Compiling as far as a server would costs these JVMs more than it brings."""


def free_port() -> int:
    """Return a loopback port that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def _daemon(
    name: str, *arguments: str, folder: Path, environment: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [str(SPARK_HOME / "bin" / "spark-class"), *arguments],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=folder,
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait_for_workers(status_url: str, num_workers: int, processes: list[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert all(process.poll() is None for process in processes), "a daemon of the cluster ended"
        try:
            with urllib.request.urlopen(status_url, timeout=5) as reply:  # noqa: S310 - our own master
                status = json.load(reply)
        except OSError:
            status = {"workers": []}
        if sum(worker["state"] == "ALIVE" for worker in status["workers"]) == num_workers:
            return
        time.sleep(0.2)
    raise AssertionError(f"no {num_workers} live workers within 60 s")


@contextmanager
def standalone_cluster(folder: Path, num_workers: int = 2) -> Iterator[str]:
    """Run a cluster for the length of the block and yield its master URL; logs go to `folder`."""
    port, status_port = free_port(), free_port()
    environment = {
        **os.environ,
        "SPARK_HOME": str(SPARK_HOME),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "PYSPARK_PYTHON": sys.executable,
        "SPARK_DAEMON_JAVA_OPTS": SHORT_LIVED_JVM,
    }
    master_url = f"spark://127.0.0.1:{port}"
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                _daemon(
                    "master",
                    "org.apache.spark.deploy.master.Master",
                    *("--host", "127.0.0.1", "--port", str(port), "--webui-port", str(status_port)),
                    folder=folder,
                    environment=environment,
                )
            )
        ]
        for index in range(num_workers):
            processes.append(
                stack.enter_context(
                    _daemon(
                        f"worker-{index}",
                        "org.apache.spark.deploy.worker.Worker",
                        *("--host", "127.0.0.1", "--webui-port", str(free_port())),
                        *("--cores", "1", "--memory", "2g", "--work-dir", str(folder / f"work-{index}")),
                        master_url,
                        folder=folder,
                        environment=environment,
                    )
                )
            )
        _wait_for_workers(f"http://127.0.0.1:{status_port}/json/", num_workers, processes)
        yield master_url
