"""Simulate whole tasks with the acceptance of clinloop: how often noise is accepted, what it costs in power, what the strict rule believes.

    python benchmarks/acceptance.py [--tasks 400] [--repeats 100] [--seed 0]

Prints the tables of docs/acceptance.md. The decisions are those of `acceptance.decide` on the bootstrap of clinloop; a
bootstrap ends early only where the resamples that are left cannot change the decision.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from clinloop.scoring.acceptance import FAMILY_LEVEL, Look, Mode, Taken, decide, needed_p, next_look
from clinloop.scoring.bootstrap import draw_counts
from clinloop.scoring.evaluate import evaluate, evaluate_once
from clinloop.scoring.metrics import Scheme
from clinloop.scoring.results import Estimate, PairedMetric
from clinloop.scoring.service import RESAMPLES_P
from clinloop.scoring.weighted import Cases

Floats = npt.NDArray[np.float64]

SCHEME, NAME = Scheme(("absent", "present")), ["auc_present"]
CHUNK = 250
POWER_RESAMPLES = 2_000
"""For p-values that are looked at one by one; whether noise is accepted takes all of clinloop's 10,000."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a validation set and the runs on it are like."""

    groups: int = 400
    """Patients, every second with two images."""
    prevalence: float = 0.3
    auc: float = 0.85
    """True AUC of the baseline."""
    alike: float = 0.8
    """Share of the variance of a run's scores that all runs have in common: an image that is hard for one is hard for most."""
    within: float = 0.5
    """Share of the variance that the images of a patient have in common."""


class Validation:
    """One validation set, drawn anew for each task, and the resamples of its groups."""

    def __init__(self, setting: Setting, seed: int, resamples: int = RESAMPLES_P) -> None:
        self._setting, self._random, self._seed, self.resamples = setting, np.random.default_rng(seed), seed, resamples
        self._groups = np.concatenate([np.arange(setting.groups), np.arange(0, setting.groups, 2)])
        positive = np.zeros(setting.groups, dtype=np.intp)
        positive[: round(setting.prevalence * setting.groups)] = 1
        self._truth = self._random.permutation(positive)[self._groups]
        self._common = self._noise()
        self._counts: list[Floats] = []

    def run(self, auc: float) -> Run:
        """Return the predictions of a new run whose AUC in the population is `auc`."""
        alike, apart = self._setting.alike, NormalDist().inv_cdf(auc) * 2**0.5
        score = apart * self._truth + alike**0.5 * self._common + (1 - alike) ** 0.5 * self._noise()
        p = 1 / (1 + np.exp(-score))
        cases = Cases(
            truth=self._truth,
            probabilities=np.stack([1 - p, p], axis=1),
            groups=self._groups,
            n_groups=self._setting.groups,
            thresholds=np.full(2, np.nan),
        )
        return Run(cases, auc)

    def p_of_gain(self, old: Run, new: Run, highest: float) -> float:
        """Return the one-sided p-value, or as soon as it is above `highest` a bound that is, too."""
        beyond = 0
        for at, counts in enumerate(self._resampled()):
            beyond += int((new.aucs(at, counts) <= old.aucs(at, counts)).sum())
            if (beyond + 1) / (self.resamples + 1) > highest:
                break
        return (beyond + 1) / (self.resamples + 1)

    def _resampled(self) -> Iterator[Floats]:
        """Yield the resamples in chunks, the same ones for every run of the task, as clinloop draws them."""
        yield from self._counts
        if len(self._counts) * CHUNK < self.resamples:
            drawn = draw_counts(self._setting.groups, self.resamples, seed=self._seed, chunk=CHUNK)
            for at, counts in enumerate(drawn):
                if at >= len(self._counts):
                    self._counts.append(counts)
                    yield counts

    def _noise(self) -> Floats:
        within = self._setting.within
        patient = self._random.normal(size=self._setting.groups)[self._groups]
        return within**0.5 * patient + (1 - within) ** 0.5 * self._random.normal(size=len(self._groups))


class Run:
    """One run: its predictions, the AUC that it would have in the population, and its resampled AUCs as far as they were needed."""

    def __init__(self, cases: Cases, true: float) -> None:
        self.cases, self.true = cases, true
        self.seen = float(evaluate_once(NAME, SCHEME, cases)[0])
        self._aucs: dict[int, Floats] = {}

    def aucs(self, at: int, counts: Floats) -> Floats:
        """Return its AUCs on chunk number `at` of the resamples."""
        if at not in self._aucs:
            self._aucs[at] = evaluate(NAME, SCHEME, self.cases, counts)[0]
        return self._aucs[at]


class Played(NamedTuple):
    """How a task ended."""

    accepted: int
    """Runs that replaced the incumbent."""
    false: int
    """Of these, runs that are not better in the population than the incumbent that they replaced."""
    seen: float
    """Validation AUC of the last incumbent."""
    true: float
    """AUC of the last incumbent in the population."""


def play(
    setting: Setting,
    mode: Mode,
    gains: list[float],
    seed: int,
    *,
    level: float | None = None,
    resamples: int = RESAMPLES_P,
) -> Played:
    """Play a task of one baseline and len(gains) runs, each better in the population than its incumbent by its gain.

    level: test every run at this level, without correction.
    """
    validation = Validation(setting, seed, resamples)
    incumbent, taken = validation.run(setting.auc), list[Taken]()
    accepted = false = 0
    for number, gain in enumerate(gains):
        look = next_look(mode, taken, str(number), left=len(gains) - number)
        look = look if level is None else Look(number + 1, len(gains), level)
        run = validation.run(incumbent.true + gain)
        highest = needed_p(look.level, setting.groups)
        p = validation.p_of_gain(incumbent, run, highest) if mode == "guarded" and run.seen > incumbent.seen else 1.0
        decision = decide(mode, pair(incumbent.seen, run.seen, p, setting.groups), look=look)
        taken.append(Taken(str(number), decision.reason, decision.accepted, look.spends))
        if decision.accepted:
            accepted, false = accepted + 1, false + (run.true <= incumbent.true)
            incumbent = run
    return Played(accepted, false, incumbent.seen, incumbent.true)


def pair(old: float, new: float, p: float, groups: int) -> PairedMetric:
    """Return a comparison as the scoring process makes it, without intervals."""
    return PairedMetric(
        name=NAME[0],
        direction="higher",
        initial=Estimate(old),
        refined=Estimate(new),
        difference=Estimate(new - old),
        p=None,
        p_gain=p,
        n=groups * 3 // 2,
        groups=groups,
        unit="patient",
        resamples=RESAMPLES_P,
        seed=0,
    )


def p_values(setting: Setting, gain: float, repeats: int, *, seed: int, highest: float) -> Floats:
    """Return the p-values of one run that is better by `gain`, each on a validation set of its own."""
    found: list[float] = []
    for repeat in range(repeats):
        validation = Validation(setting, seed + repeat, POWER_RESAMPLES)
        found.append(validation.p_of_gain(validation.run(setting.auc), validation.run(setting.auc + gain), highest))
    return np.array(found)


def noise_rows(tasks: int, seed: int, rounds: int = 30) -> Iterator[dict[str, float]]:
    """Play tasks in which no run is better than the baseline."""
    for groups in (60, 150, 400):
        setting, gains = Setting(groups=groups), [0.0] * rounds
        guarded = [play(setting, "guarded", gains, seed + task) for task in range(tasks)]
        flat = [play(setting, "guarded", gains, seed + task, level=0.10) for task in range(tasks // 10)]
        paper = [play(setting, "paper", gains, seed + task) for task in range(tasks)]
        beliefs = [played.seen - played.true for played in paper]
        yield {
            "groups": groups,
            "guarded: any accepted": float(np.mean([played.accepted > 0 for played in guarded])),
            "0.10 per look: any accepted": float(np.mean([played.accepted > 0 for played in flat])),
            "paper: any accepted": float(np.mean([played.accepted > 0 for played in paper])),
            "paper: accepted": float(np.mean([played.accepted for played in paper])),
            "paper: validation minus truth": float(np.mean(beliefs)),
            "of one task in twenty": float(np.quantile(beliefs, 0.95)),
            "guarded: validation minus truth": float(np.mean([played.seen - played.true for played in guarded])),
        }


def power_rows(repeats: int, seed: int) -> Iterator[dict[str, float]]:
    """Test single runs that are really better, at the level that a first look has."""
    for groups in (60, 150, 400, 1000):
        for gain in (0.01, 0.02, 0.03, 0.05):
            p = p_values(Setting(groups=groups), gain, repeats, seed=seed, highest=0.10)
            powers = {
                f"{looks} looks": float(np.mean(p <= needed_p(FAMILY_LEVEL / looks, groups))) for looks in (1, 3, 7, 30)
            }
            yield {"groups": groups, "gain": gain, **powers, "0.10 per look": float(np.mean(p <= 0.10))}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("--tasks", 400), ("--repeats", 100), ("--seed", 0)):
        parser.add_argument(name, type=int, default=default)
    given = parser.parse_args()
    for title, rows in (
        ("Thirty runs of pure noise", noise_rows(given.tasks, given.seed)),
        ("One run that is really better", power_rows(given.repeats, given.seed)),
    ):
        for number, row in enumerate(rows):
            if not number:
                print(f"\n{title}\n\n| {' | '.join(row)} |\n|{'---|' * len(row)}")
            print(f"| {' | '.join(f'{value:.3g}' for value in row.values())} |", flush=True)


if __name__ == "__main__":
    main()
