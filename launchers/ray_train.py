"""Train on a Ray cluster, which starts the workers and restarts them after a failure.

    python launchers/ray_train.py --num-workers 4 --gpus-per-worker 8 -- \
        launchers/train_with_patience.py --run /shared/runs/big

What stands after `--` is what each worker does: any launcher that trains, with its
options. The run folder must be on a disk that all machines see. When a worker dies, Ray
starts all of them again, elsewhere if need be, and the run goes on from its last
checkpoint. Wants the extra `ray`.
"""

import dataclasses
import importlib.util
import os
import signal
import sys
from pathlib import Path
from typing import Any

import tyro

from worklab import cli
from worklab.output import output_mode

_STOPPED = 128 + signal.SIGTERM


@dataclasses.dataclass(frozen=True)
class Options:
    """Train on a Ray cluster; give the launcher and its options after `--`."""

    num_workers: int = 1
    """Processes that train together, usually one for each machine."""
    gpus_per_worker: int = 0
    """GPUs that each worker has for itself; 0: it computes on the CPU."""
    cpus_per_worker: int = 1
    """CPUs that Ray keeps for each worker."""
    max_failures: int = 3
    """Times that the workers are started again; -1: as often as it takes."""
    address: str | None = None
    """Address of the cluster; None: the one around, or a new one on this machine."""
    launcher: tyro.conf.Positional[tuple[str, ...]] = ()
    """Path of the launcher that each worker runs, and its options, after `--`."""


def main(options: Options) -> None:
    """Train on a Ray cluster until the launcher has ended on every worker.

    Raises:
        ValueError: If an option is out of range, or there is no such launcher.
        RuntimeError: If Ray is not installed, or the workers failed too often.
    """
    workers, failures = options.num_workers, options.max_failures
    if workers < 1 or failures < -1:
        raise ValueError(
            "`num_workers` must be at least 1, and `max_failures` at least -1. "
            f"Received: num_workers={workers}, max_failures={failures}"
        )
    if not options.launcher or not Path(options.launcher[0]).is_file():
        raise ValueError(
            "what each worker does stands after `--`: `python launchers/ray_train.py "
            "--num-workers 2 -- launchers/train.py --run runs/mine`. "
            f"Received: {' '.join(options.launcher) or 'nothing after --'}"
        )
    try:
        import ray
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.tensorflow import TensorflowTrainer
    except ImportError as error:
        raise RuntimeError(
            f"this launcher wants Ray: `pip install 'worklab[ray]'`. Received: {error}"
        ) from error
    # Workers may be on other machines: they import from here, as this process does.
    places = os.pathsep.join(path for path in sys.path if path)
    ray.init(address=options.address, runtime_env={"env_vars": {"PYTHONPATH": places}})
    resources: dict[str, float] = {"CPU": options.cpus_per_worker}
    if options.gpus_per_worker:
        resources["GPU"] = options.gpus_per_worker
    trainer = TensorflowTrainer(
        work,
        train_loop_config={
            "launcher": launcher_words(options.launcher),
            "folder": os.getcwd(),
        },
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=options.gpus_per_worker > 0,
            resources_per_worker=resources,
        ),
        run_config=RunConfig(failure_config=FailureConfig(max_failures=failures)),
    )
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise RuntimeError(
            "the workers failed too often. Mend the cause and start this again; the "
            f"run goes on from its last checkpoint. Received: {error}"
        ) from error
    finally:
        ray.shutdown()


def launcher_words(launcher: tuple[str, ...]) -> tuple[str, ...]:
    """Return a worker's command, quiet where this process is and it says nothing."""
    path, *words = launcher
    if output_mode() == "quiet" and not {"--quiet", "--json-lines"} & {*words}:
        words = ["--quiet", *words]
    return path, *words


def work(config: dict[str, Any]) -> None:
    """Run a launcher in the process of a worker, where Ray has set `TF_CONFIG`.

    Raises:
        RuntimeError: If it ended with an error; Ray starts all workers again.
    """
    os.chdir(config["folder"])
    path, *words = config["launcher"]
    spec = importlib.util.spec_from_file_location(f"launcher_{Path(path).stem}", path)
    if spec is None or spec.loader is None:
        raise RuntimeError(f"there is no launcher `{path}` here. Received: {path}")
    launcher = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = launcher  # where its annotations are looked up
    spec.loader.exec_module(launcher)
    try:
        cli.run(launcher.main, words)
    except SystemExit as stop:
        if stop.code == _STOPPED:  # by its time limit; Ray need not go on
            return
        raise RuntimeError(
            f"the launcher has ended; its own output says why. Received: {stop.code}"
        ) from stop


if __name__ == "__main__":
    cli.run(main, face="cluster")
