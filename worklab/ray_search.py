"""Workers of a search on a Ray cluster: each does what the same command does here.

Ray finds them a place with enough CPUs and GPUs, and starts those again that have died.
Which trial is whose, they agree upon by the folder of the search, which all must see.
"""

import dataclasses
import importlib
import logging
import os
import sys
from typing import Any

from worklab.cli import log_to_standard_error, options_from_json, options_to_json
from worklab.output import output_mode, speaking
from worklab.stopping import StopRequested, StopSignals

_logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.5
_MOST_RETRIES = 3  # of a worker that has died; a trial that dies is not a worker


def search_on_ray(launcher: str, options: Any, signals: StopSignals) -> None:
    """Run a launcher's search on workers of a cluster, and wait for its end.

    Args:
        launcher: Module whose `main` searches, e.g. `launchers.train_with_hyper`.
        options: Its options.
        signals: What comes there stops the workers, each with a checkpoint.

    Raises:
        RuntimeError: If Ray is not installed, or a worker has failed.
        StopRequested: If the search was asked to end.
    """
    try:
        import ray
    except ImportError as error:
        raise RuntimeError(
            "`--search.engine ray` wants Ray: `pip install 'worklab[ray]'`. "
            f"Received: {error}"
        ) from error
    settings = options.search
    # Workers may be on other machines: they import from here, as this process does.
    places = os.pathsep.join(path for path in sys.path if path)
    ray.init(address=settings.address, runtime_env={"env_vars": {"PYTHONPATH": places}})
    quiet = output_mode() == "quiet"
    own = dataclasses.replace(
        options, search=dataclasses.replace(settings, engine="local")
    )
    try:
        task = ray.remote(
            num_cpus=settings.cpus_per_trial,
            num_gpus=settings.gpus_per_trial,
            max_retries=_MOST_RETRIES,
        )(work)
        waiting = [
            task.remote(launcher, options_to_json(own), os.getcwd(), quiet)
            for _ in range(settings.workers)
        ]
        cancelled = False
        while waiting:
            done, waiting = ray.wait(waiting, timeout=_POLL_SECONDS)
            messages = [message for message in _results(ray, done) if message]
            if messages and signals.number is None:
                raise RuntimeError(f"a worker has failed: {messages[0]}")
            if signals.number is not None and not cancelled:
                for reference in waiting:
                    ray.cancel(reference)
                cancelled = True
    finally:
        ray.shutdown()
    if signals.number is not None:
        raise StopRequested(signals.number)


def work(launcher: str, plain: dict[str, Any], folder: str, quiet: bool) -> str:
    """Work on the trials of a search in a process of Ray; return what went wrong.

    Ray shows what this process says where the search was started.
    """
    os.chdir(folder)
    log_to_standard_error()
    module = importlib.import_module(launcher)
    try:
        with speaking("quiet" if quiet else "lines"):
            module.main(options_from_json(module.Options, plain))
    except SystemExit as stop:  # to Ray that would be a worker that has died
        return f"it was stopped. Received: exit code {stop.code}"
    except (ValueError, OSError, RuntimeError) as error:
        return str(error)
    return ""


def _results(ray: Any, references: list[Any]) -> list[str]:
    results = []
    for reference in references:
        try:
            results.append(ray.get(reference))
        except ray.exceptions.RayError as error:
            results.append(f"Ray has lost it. Received: {error}")
    return results
