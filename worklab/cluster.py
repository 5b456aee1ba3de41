"""Workers on several machines, as `TF_CONFIG` names them."""

import dataclasses
import functools
import json
import logging
import os
import re
import socket
import time
from typing import Any

import tensorflow as tf

_logger = logging.getLogger(__name__)

_REMINDER_SECONDS = 10


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The workers that train together, as `TF_CONFIG` names them.

    Attributes:
        addresses: `host:port` of each worker; the chief is the first.
        index: Which of them this process is.
    """

    addresses: tuple[str, ...]
    index: int


def read_cluster() -> Cluster | None:
    """Return the cluster that the environment's `TF_CONFIG` describes.

    Returns:
        The cluster, or None where this process trains by itself.

    Raises:
        ValueError: If the text is not what TensorFlow's documentation describes.

    Example:
        >>> os.environ["TF_CONFIG"] = (
        ...     '{"cluster": {"worker": ["a:1", "b:1"]},'
        ...     ' "task": {"type": "worker", "index": 1}}')
        >>> read_cluster()
        Cluster(addresses=('a:1', 'b:1'), index=1)
        >>> del os.environ["TF_CONFIG"]
    """
    text = os.environ.get("TF_CONFIG", "")
    if not text.strip():
        return None
    problem = _problem(text)
    if problem:
        raise ValueError(
            f"the environment variable TF_CONFIG cannot be understood: {problem}. It "
            'should look like {"cluster": {"worker": ["host1:2222", "host2:2222"]}, '
            '"task": {"type": "worker", "index": 0}}, with the index of this machine. '
            f"Received: TF_CONFIG={text}"
        )
    config = json.loads(text)
    jobs, task = config["cluster"], config["task"]
    chiefs = jobs.get("chief", [])
    addresses = (*chiefs, *jobs.get("worker", []))
    if len(addresses) == 1:
        return None
    before = 0 if task["type"] == "chief" else len(chiefs)
    return Cluster(addresses, before + int(task["index"]))


@functools.cache
def join_cluster(cluster: Cluster) -> Any:
    """Return the strategy of a cluster, whose workers find each other by and by.

    Raises:
        ValueError: If the worker's port is taken, or TensorFlow has computed already.
    """
    own = cluster.addresses[cluster.index]
    port = int(own.rpartition(":")[2])
    others = [address for address in cluster.addresses if address != own]
    with socket.socket() as meeting_place:
        meeting_place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            meeting_place.bind(("", port))
            meeting_place.listen()
        except (OSError, OverflowError) as error:
            raise ValueError(
                f"this worker cannot listen on port {port}, as TF_CONFIG says: "
                f"{error}. Is another run using it? Give all workers another port. "
                f"Received: {own}"
            ) from error
        _logger.info(
            "worker %d of %d at %s, waiting for %s",
            cluster.index,
            len(cluster.addresses),
            own,
            ", ".join(others),
        )
        # TensorFlow would wait as well, but deaf to Ctrl-C and without a word.
        for address in others:
            _wait_for(address)
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except RuntimeError as error:
        raise ValueError(
            "workers can only join before TensorFlow computes anything, and once in a "
            f"process. Received: {error}"
        ) from error


def _wait_for(address: str) -> None:
    """Wait until a worker listens."""
    host, _, port = address.rpartition(":")
    began = last = time.monotonic()
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
            return
        except OSError as error:
            now = time.monotonic()
            if now - last > _REMINDER_SECONDS:
                last = now
                _logger.warning(
                    "still waiting for the worker at %s after %.0f s (%s). Is it "
                    "started, can this machine reach it, and is the run not complete?",
                    address,
                    now - began,
                    error,
                )
            time.sleep(0.2)


def _problem(text: str) -> str:
    """Return what is wrong with the text of `TF_CONFIG`; "" where nothing is."""
    try:
        config = json.loads(text)
        jobs = {job: list(addresses) for job, addresses in config["cluster"].items()}
        job, index = config["task"]["type"], int(config["task"]["index"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"it is no JSON, or a part is missing ({error!r})"
    if not jobs or not jobs.keys() <= {"chief", "worker"}:
        return f"its jobs must be `chief` and `worker`, not {[*jobs]}"
    if job not in jobs or not 0 <= index < len(jobs[job]):
        return f"the cluster has no {job} {index}"
    addresses = [address for job in jobs.values() for address in job]
    for address in addresses:
        if not re.fullmatch(r"\S+:\d{1,5}", str(address)):
            return f"{address!r} is no `host:port`"
    if len(set(addresses)) < len(addresses):
        return "two workers have the same address"
    return ""
