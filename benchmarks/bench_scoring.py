"""Time the scoring: macro-AUC intervals against the scikit-learn loop in the same run, other metrics, and round trips of the scoring process.

    python benchmarks/bench_scoring.py [--sklearn-resamples 40]

Prints one JSON object; seconds are the best of `repeats`. The scikit-learn loop is measured on a few resamples and scaled to all. The
peak memory is that of this whole process, scikit-learn included.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from sklearn.metrics import roc_auc_score

from clinloop.scoring import service
from clinloop.scoring.bootstrap import bootstrap, draw_counts
from clinloop.scoring.weighted import Cases

N, RESAMPLES, MANY, REPEATS = 6191, 2000, 10_000, 3
CLASSES = ["MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC"]
SCHEME = service.Scheme(tuple(CLASSES))
# Source: class proportions of the ISIC 2019 training set.
SHARES = np.array([4522, 12875, 3323, 867, 2624, 239, 253, 628]) / 25331


def best_of(call: Callable[[], object], repeats: int = REPEATS) -> float:
    """Return the seconds of the fastest of several calls."""
    seconds: list[float] = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def make_cases(n_groups: int, seed: int = 0) -> Cases:
    """Return cases with scores that separate the classes about as well as a fair model."""
    random = np.random.default_rng(seed)
    truth = random.choice(len(CLASSES), N, p=SHARES)
    scores = random.random((N, len(CLASSES)))
    scores[np.arange(N), truth] += 0.5
    return Cases(
        truth=truth,
        probabilities=scores / scores.sum(axis=1, keepdims=True),
        groups=np.arange(N) % n_groups,
        n_groups=n_groups,
        thresholds=np.full(len(CLASSES), 0.2),
    )


def confounded(cases: Cases) -> Cases:
    """Return two classes of the same cases, with an attribute that goes with the second."""
    random = np.random.default_rng(2)
    is_melanoma = cases.truth == 0
    p = cases.probabilities[:, 0]
    return replace(
        cases,
        truth=is_melanoma.astype(np.intp),
        probabilities=np.stack([1 - p, p], axis=1),
        thresholds=np.full(2, 0.2),
        positive=1,
        confounders=(random.random(N) < 0.2 + 0.4 * is_melanoma)[:, None].astype(np.float64),
        _made={},
    )


def sklearn_loop(cases: Cases, resamples: int) -> list[float]:
    """Return macro AUCs of physically drawn resamples of images, by scikit-learn."""
    values: list[float] = []
    for counts in draw_counts(cases.n_groups, resamples, seed=0, chunk=1):
        rows = np.repeat(np.arange(N), counts[cases.groups, 0].astype(int))
        values.append(roc_auc_score(cases.truth[rows], cases.probabilities[rows], multi_class="ovr"))
    return values


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sklearn-resamples", type=int, default=40, help="resamples of the scikit-learn loop (2000: all)"
    )
    options = parser.parse_args()
    images, lesions, other = make_cases(N), make_cases(2678), make_cases(N, seed=1)

    def ours(
        models: list[Cases],
        resamples: int = RESAMPLES,
        names: tuple[str, ...] = ("macro_auc",),
        scheme: service.Scheme = SCHEME,
    ) -> np.ndarray:
        fresh = [replace(model, _made={}) for model in models]  # sorting is part of the work
        return bootstrap(list(names), scheme, fresh, resamples=resamples, seed=0)

    few = options.sklearn_resamples
    difference = float(np.abs(ours([images], few)[0, 0] - sklearn_loop(images, few)).max())
    seconds_ours = best_of(lambda: ours([images]))
    seconds_many = best_of(lambda: ours([images], MANY), 1)
    seconds_sklearn = best_of(lambda: sklearn_loop(images, few), 1) * RESAMPLES / few
    binary, two = confounded(images), service.Scheme(("other", "melanoma"), positive="melanoma", confounders=("ruler",))
    others = {
        name: round(best_of(lambda name=name: ours([images], names=(name,))), 3)
        for name in ("f1", "mcc", "brier", "ece", "macro_auprc", "sens_at_spec80_MEL", "net_benefit_MEL")
    }
    others |= {
        name: round(best_of(lambda name=name: ours([binary], names=(name,), scheme=two)), 3)
        for name in ("partial_r_ruler", "conflict_auc_ruler")
    }
    rows = {f"{index:012x}": row for index, row in enumerate(images.probabilities)}
    csv = service.probabilities_csv(rows, CLASSES)
    truth = [service.TruthCase(case_id, "", CLASSES[label]) for case_id, label in zip(rows, images.truth, strict=True)]
    small = truth[:100]
    small_csv = service.probabilities_csv({case_id: rows[case_id] for case_id, *_ in small}, CLASSES)

    def score(data: bytes, labels: list[service.TruthCase], *, intervals: bool) -> object:
        return service.score_predictions(
            data, labels, scheme=SCHEME, metrics=["macro_auc"], primary="macro_auc", intervals=intervals
        )

    result = {
        "machine": {"python": platform.python_version(), "numpy": np.__version__, "processor": platform.machine()},
        "macro_auc_interval": {
            "cases": N,
            "classes": len(CLASSES),
            "resamples": RESAMPLES,
            "ours_s": round(seconds_ours, 3),
            "sklearn_loop_s": round(seconds_sklearn, 2),
            "sklearn_resamples_measured": few,
            "ratio": round(seconds_sklearn / seconds_ours, 1),
            "largest_difference": difference,
            "ours_2678_groups_s": round(best_of(lambda: ours([lesions])), 3),
        },
        "macro_auc_10000": {
            "ours_s": round(seconds_many, 2),
            "sklearn_loop_s": round(seconds_sklearn * MANY / RESAMPLES, 1),
            "ratio": round(seconds_sklearn * MANY / RESAMPLES / seconds_many, 1),
        },
        "paired_macro_auc_10000_s": round(best_of(lambda: ours([images, other], MANY), 1), 2),
        "interval_2000_s": others,
        "four_count_metrics_2000_s": round(
            best_of(lambda: ours([images], names=("f1", "balanced_accuracy", "sensitivity_MEL", "brier"))), 3
        ),
        "child_round_trip": {
            "primary_only_100_cases_s": round(best_of(lambda: score(small_csv, small, intervals=False)), 3),
            "primary_only_6191_cases_s": round(best_of(lambda: score(csv, truth, intervals=False)), 3),
            "with_interval_6191_cases_s": round(best_of(lambda: score(csv, truth, intervals=True)), 3),
        },
        "peak_memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    sys.stdout.write(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
