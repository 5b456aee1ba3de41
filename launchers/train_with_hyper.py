"""Search: train with patience for one value after the other, then test the best.

    python launchers/train_with_hyper.py --run runs/widths --search.start 2 \
        --search.factor 2

trains a small network on handwritten digits, twice as wide each time, until the lowest
validation loss does not fall any more. Any options are searched together with

    python launchers/train_with_hyper.py --run runs/search --search.num-trials 20 \
        --search.space schedule.learning-rate=0.001:0.3:log optimizer.name=sgd,adam

The test split is read once, by the best trial. Stop it at any time; the same command
goes on where it was, inside the trial. Started several times, here or on machines that
see the folder, the processes share the trials of a space.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

sys.path.append(str(Path(__file__).resolve().parent.parent))  # where `launchers` is

from launchers import train_with_patience  # noqa: E402
from worklab import cli  # noqa: E402
from worklab.cluster import read_cluster  # noqa: E402
from worklab.console import make_console, show_statistics  # noqa: E402
from worklab.network_source import find_file  # noqa: E402
from worklab.options import SearchOptions  # noqa: E402
from worklab.printing import print_plainly  # noqa: E402
from worklab.ray_search import search_on_ray  # noqa: E402
from worklab.runs import load_network_class, read_result  # noqa: E402
from worklab.search import Search, begin, check_hyper  # noqa: E402
from worklab.search_page import write_hyper_page, write_study_page  # noqa: E402
from worklab.search_space import check_space, read_space  # noqa: E402
from worklab.trials import show_trials, trials_from_json  # noqa: E402


@dataclasses.dataclass(frozen=True)
class Options(train_with_patience.Options):
    """Search for the options with the lowest validation loss, then test once.

    An unfinished search goes on where it was; a finished one shows its result.
    """

    run: Path = Path("runs/search")
    """Folder of the search; each trial has a run folder in `trials/` there."""
    network: str = "worklab.networks.digits:PlainDigitsNetwork"
    """The Network class, as `file.py:Class` or `package.module:Class`."""
    pretrained: Path | None = None
    """Weights that the network's `restore=` layers start from; None: from scratch."""
    search: SearchOptions = SearchOptions()


def main(options: Options) -> dict[str, Any]:
    """Search for the options with the lowest validation loss, then test once.

    Returns:
        The content of `result.json`.

    Raises:
        ValueError: If an option does not suit a search.
        RuntimeError: If all trials have failed, or a worker has.
    """
    console = make_console()
    settings = options.search
    result = read_result(options.run, entry="best")
    num_wanted = (settings.num_trials or 0) if settings.space else 0
    if result is not None and result.get("num_wanted", num_wanted) >= num_wanted:
        show_result(console, options.run, result)
        return result

    if read_cluster() is not None:
        raise ValueError(
            "a search divides its trials among processes, not their batches: start the "
            "same command without `TF_CONFIG`. Received: TF_CONFIG"
        )
    refuse_notebook(options.network)  # before anything starts
    trial_options = train_with_patience.Options(
        **{
            field.name: getattr(options, field.name)
            for field in dataclasses.fields(train_with_patience.Options)
        }
    )
    space = read_space(settings.space, type(trial_options)) if settings.space else {}
    if space:
        check_space(space, settings)
    else:
        check_hyper(settings, options.hyper)
    if space and settings.engine == "local":
        from worklab.study import Study  # Optuna is an extra
    search = Search(
        options.run,
        train_with_patience.main,
        trial_options,
        time_limit=options.session.time_limit,
    )
    begin(options, space)  # last, as a wrong command is not to leave anything
    with search:
        if settings.engine == "ray":
            search_on_ray("launchers.train_with_hyper", options, search.signals)
            result = read_result(options.run)
            if result is None:
                raise RuntimeError(
                    "no worker has ended the search. Give at least one. "
                    f"Received: search.workers={settings.workers}"
                )
            show_result(console, options.run, result)
            return result
        if space:
            study = Study(
                options.run,
                space,
                settings,
                seed=options.session.seed,
                valid_every=options.patience.valid_every,
            )
            trials = search.search_space(study)
            page = options.run / "search.html"
            write_study_page(page, trials, study.load(), space)
        else:
            trials = search.search_hyper(settings)
            write_hyper_page(options.run / "search.html", trials)
        result = search.conclude(trials, num_wanted)
    show_result(console, options.run, result)
    return result


def refuse_notebook(network: str) -> None:
    """Check that other processes can import a network, as trials must.

    Raises:
        ValueError: If it cannot be imported, or is of a notebook.
    """
    if find_file(load_network_class(network)) is None:
        raise ValueError(
            "a search trains in other processes, which do not see a notebook's class; "
            f"write it to a file. Received: network={network!r}"
        )


def show_result(console: Console, run: Path, result: dict[str, Any]) -> None:
    """Show all trials, and the test of the best of them."""
    print_plainly(console, f"{run} is complete; another `--run` starts anew")
    show_trials(console, trials_from_json(result["trials"]))
    best = result["best"]
    print_plainly(console, f"test of {best['run']}, step {best['best_step']}:")
    show_statistics(console, result["test"], result["class_names"])
    print_plainly(console, f"plots: {run / 'search.html'}, table: {run / 'trials.csv'}")
    page = run / best["run"] / "report.html"
    if page.exists():
        print_plainly(console, f"report of the best: {page}")


if __name__ == "__main__":
    cli.run(main)
