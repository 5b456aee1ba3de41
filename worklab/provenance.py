"""Where a run comes from: versions of packages, machine, and code with its changes."""

import contextlib
import functools
import os
import platform
import re
import subprocess
import threading
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

CHANGES_BYTES = 1_000_000
"""Of changes that are not committed, no more is kept with a run."""

# A start waits no longer for git, e.g. in a large project on a slow disk.
_GIT_SECONDS = 5.0

# Where worklab itself is not installed, but only found on the path.
_CORE = ("grain", "keras", "numpy", "opencv-python-headless", "tensorflow")


def package_versions() -> dict[str, str]:
    """Return the version of worklab, and of each package it asks for that is there.

    Those of its extras count, where they are installed; tools of development do not.
    """
    try:
        wanted = metadata.requires("worklab") or []
    except metadata.PackageNotFoundError:
        wanted = list(_CORE)
    names = {
        re.split(r"[^\w.-]", requirement)[0]
        for requirement in wanted
        if 'extra == "dev"' not in requirement
    }
    versions = {}
    for name in ["worklab", *sorted(names)]:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def describe_machine(gpus: Sequence[str] = ()) -> dict[str, Any]:
    """Return what results and speed depend on: processor, memory, GPUs, system.

    Args:
        gpus: Names of the GPUs that compute.
    """
    memory = None
    with contextlib.suppress(ValueError, OSError):  # not every system tells
        bytes_there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        memory = round(bytes_there / 1e9, 1)
    return {
        "host": platform.node(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "cores_allowed": len(getattr(os, "sched_getaffinity", _all_cores)(0)),
        "memory_gigabytes": memory,
        "gpus": list(gpus),
    }


def describe_code(files: Mapping[str, Path | None]) -> tuple[dict[str, Any], str]:
    """Return the git revisions of the projects that files are in, and what is changed.

    A revision is the nearest tag, if there is one, and the commit; `-dirty` says that
    there are changes since. A project that an earlier file is in as well is not
    named again.

    Args:
        files: A file of each project, by the name to give it; None: not known.

    Returns:
        The revision by name, None where there is no git; and the changes to what git
        tracks, as `git diff` writes them, "" where there are none.
    """
    revisions: dict[str, Any] = {}
    changes = []
    seen = set()
    for name, file in files.items():
        root = None if file is None else _find_root(file.resolve())
        if root is None:
            revisions[name] = None
        elif root not in seen:
            seen.add(root)
            revisions[name], changed = _describe_project(root)
            if changed:
                changes.append(f"# {name}: {root} at {revisions[name]}\n{changed}")
    return revisions, "".join(changes)


def _all_cores(process: int) -> range:
    return range(os.cpu_count() or 1)


@functools.cache
def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def _find_root(file: Path) -> Path | None:
    """Return the folder of the project that a file belongs to."""
    # An environment for Python may lie in somebody's project, which ignores it.
    if _git(file.parent, "check-ignore", "--quiet", str(file)) is not None:
        return None
    root = _git(file.parent, "rev-parse", "--show-toplevel")
    return Path(root.rstrip("\n")) if root else None


def _describe_project(root: Path) -> tuple[str | None, str]:
    revision = _git(root, "describe", "--always", "--long", "--abbrev=40")
    if revision is None:  # nothing is committed yet
        return None, ""
    words = (
        "diff --binary --no-color --no-ext-diff --no-textconv "
        "--src-prefix=a/ --dst-prefix=b/"
    )
    changes = _git(root, *words.split(), "HEAD")
    if changes is None:
        return f"{revision.strip()}-unknown", ""
    if len(changes) > CHANGES_BYTES:
        whole_lines = changes[:CHANGES_BYTES].rpartition("\n")[0]
        changes = f"{whole_lines}\n# cut, as there is more than {CHANGES_BYTES} bytes\n"
    return f"{revision.strip()}{'-dirty' if changes else ''}", changes


def _git(folder: Path, *words: str) -> str | None:
    """Return the beginning of what git answers, or None where it fails."""
    try:
        process = subprocess.Popen(
            ["git", "-C", str(folder), *words],  # noqa: S607
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"GIT_OPTIONAL_LOCKS": "0"},  # disturb nobody at work
        )
    except OSError:  # there is no git
        return None
    timer = threading.Timer(_GIT_SECONDS, process.kill)
    timer.start()
    with process:
        output = process.stdout.read(CHANGES_BYTES + 1) if process.stdout else b""
        is_cut = len(output) > CHANGES_BYTES
        if is_cut:
            process.kill()
        code = process.wait()
    timer.cancel()
    return output.decode(errors="replace") if is_cut or code == 0 else None
