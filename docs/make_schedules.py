"""Draw docs/images/schedules.png: every schedule as the code computes it.

python docs/make_schedules.py
"""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from worklab.options import ScheduleOptions
from worklab.schedules import make_schedule

PICTURE = Path(__file__).resolve().parent / "images" / "schedules.png"
NUM_STEPS = 1000

EXAMPLES: dict[str, dict[str, Any]] = {
    "fixed": {"warmup_steps": 100},
    "exponential": {"decay_steps": 100, "decay_rate": 0.7},
    "polynomial": {"power": 2.0},
    "steps": {"drops": (500, 750), "drop_factor": 0.3, "warmup_steps": 100},
    "cosine": {"period": 150, "period_mult": 2.0, "peak_mult": 0.8},
    "triangular": {"stepsize": 125, "cool_down": "log", "cool_down_decades": 2.0},
    "triangular2": {"stepsize": 125},
    "exp-range": {"stepsize": 125, "gamma": 0.998},
    "triangular-hold": {"stepsize": 100, "hold": 50},
    "one-cycle": {},
}


def follow(name: str) -> tuple[list[float], list[int]]:
    """Return the learning rate at each step of a run, and the steps it keeps."""
    options = ScheduleOptions(name=name, learning_rate=0.1, **EXAMPLES[name])
    schedule = make_schedule(options, NUM_STEPS)
    rates, kept = [], []
    for step in range(NUM_STEPS):
        if schedule.is_snapshot(step):
            kept.append(step)
        if step == schedule.cool_down.planned:
            schedule.cool_down.begin(step)
        rates.append(schedule(step))
    return rates, kept


def main() -> None:
    """Draw the picture."""
    figure = Figure(figsize=(10, 9), layout="constrained")
    for axes, name in zip(figure.subplots(5, 2).flat, EXAMPLES, strict=True):
        rates, kept = follow(name)
        axes.plot(rates, color="tab:blue")
        axes.plot(kept, [0.003] * len(kept), "^", color="tab:red")
        axes.set_title(name, fontsize=10)
        axes.set_ylim(0, 0.105)
        axes.tick_params(labelsize=8)
    figure.savefig(PICTURE, dpi=80)


if __name__ == "__main__":
    main()
