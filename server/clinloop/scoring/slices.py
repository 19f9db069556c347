"""Slices: groups of validation images that look alike to the model and fail together, found on one half of the groups, tested on the other.

A Gaussian mixture over reduced embeddings, the class and the model's answer, after Domino (Eyuboglu et al. 2022, arXiv 2203.14960). The other half
is put into slices by its embeddings alone: class and answer say together who is wrong, and would prove any slice.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.mixture import GaussianMixture

from clinloop.scoring.flips import Floats, Ints, flip_test, residuals, sums_by_group

MIN_CASES = 100
"""Cases with embeddings below which no slices are sought."""
MIN_ERRORS = 8
"""Wrong cases in each half below which none are sought."""
MIN_IN_SLICE = 10
COMPONENTS = 12
"""Principal components that are kept of the embeddings."""
CASES_PER_SLICE = 40
LEAST, MOST = 5, 10
_WEIGHT = 2.0
"""Of class and answer beside a component of unit variance: enough to part what is right from what is wrong in the half that is searched."""
_FLOOR = 1e-3
"""Added to every variance of the mixture, so that no slice shrinks to a single image."""


class Split(NamedTuple):
    """Cases in slices."""

    of_case: Ints
    """(N,) slice of each case."""
    is_tested: Ints
    """(N,) whether the case lies in the half that tests."""
    p: Floats
    """(S,) one-sided, corrected for all slices: more errors than cases of the same class elsewhere; NaN where there are too few."""


def find_slices(
    features: Floats, strata: Ints, answers: Floats, is_wrong: Ints, groups: Ints, *, seed: int
) -> Split | str:
    """Return the slices of cases with features (N, D), class strata (N,), answers (N, C), errors (N,) and groups (N,), or why none are sought."""
    if len(features) < MIN_CASES:
        return f"only {len(features)} validation images have embeddings; slices need {MIN_CASES}"
    rng = np.random.default_rng(seed)
    names = np.unique(groups)
    searched = np.isin(groups, rng.permutation(names)[: len(names) // 2])
    if min(int(is_wrong[searched].sum()), int(is_wrong[~searched].sum())) < MIN_ERRORS:
        return f"the model is wrong too rarely on validation ({int(is_wrong.sum())} images) to say where it fails more often"
    reduced = _reduce(features, searched)
    known = np.column_stack([np.eye(strata.max() + 1)[strata], answers]) * _WEIGHT
    joined = np.column_stack([reduced, known])
    count = int(np.clip(searched.sum() // CASES_PER_SLICE, LEAST, MOST))
    mixture = GaussianMixture(
        count, covariance_type="diag", reg_covar=_FLOOR, n_init=2, max_iter=200, random_state=seed
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a fit that has not converged: any partition may be tested
        mixture.fit(joined[searched])
    of_case = _by_look(mixture, reduced)
    tested = ~searched
    member = np.eye(count)[of_case[tested]]  # (T, S)
    errors = residuals(is_wrong[tested, None].astype(np.float64), strata[tested])
    scores = errors * residuals(member, strata[tested])
    enough = (member.sum(axis=0) >= MIN_IN_SLICE) & (member.sum(axis=0) <= len(member) - MIN_IN_SLICE)
    p = np.full(count, np.nan)
    if enough.any():
        p[enough] = flip_test(sums_by_group(scores[:, enough], groups[tested]), seed=seed, one_sided=True)
    return Split(of_case, tested.astype(np.intp), p)


def _reduce(features: Floats, searched: npt.NDArray[np.bool_]) -> Floats:
    """Return the first principal components, of unit variance on the searched half."""
    centre = features[searched].mean(axis=0)
    spread = features[searched].std(axis=0)
    scaled = (features - centre) / np.where(spread > 0, spread, 1.0)
    _, sizes, axes = np.linalg.svd(scaled[searched], full_matrices=False)
    kept = min(COMPONENTS, int((sizes > sizes[0] * 1e-6).sum())) if sizes[0] > 0 else 1
    components = scaled @ axes[:kept].T
    size = components[searched].std(axis=0)
    return components / np.where(size > 0, size, 1.0)


def _by_look(mixture: GaussianMixture, reduced: Floats) -> Ints:
    """Return the likeliest slice of each case by its embeddings alone: the marginal of a mixture with diagonal covariances."""
    means = np.asarray(mixture.means_, dtype=np.float64)[:, : reduced.shape[1]]
    variances = np.asarray(mixture.covariances_, dtype=np.float64)[:, : reduced.shape[1]]
    distances = (((reduced[:, None, :] - means) ** 2) / variances + np.log(variances)).sum(axis=2)  # (N, S)
    return np.argmax(np.log(np.asarray(mixture.weights_, dtype=np.float64)) - distances / 2, axis=1).astype(np.intp)
