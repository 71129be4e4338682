"""How far a measured share can be from the true one."""

from math import sqrt
from statistics import NormalDist

_DEVIATIONS = NormalDist().inv_cdf(0.975)


def interval(share: float, samples: int) -> tuple[float, float]:
    """Where the true share lies with 95 % confidence if `share` of `samples` independent ones were right (Wilson 1927).

    Of 20 right out of 20 it is 0.84 to 1: also where all or none were right something is left to doubt.

    Raises:
        ValueError: samples is below 1, or share not from 0 to 1.
    """
    if samples < 1 or not 0 <= share <= 1:
        raise ValueError(f"share is {share} and samples {samples}; they must be from 0 to 1, and at least 1")
    weight = _DEVIATIONS**2 / samples
    middle = (share + weight / 2) / (1 + weight)
    reach = sqrt(weight * (share * (1 - share) + weight / 4)) / (1 + weight)
    return max(0.0, middle - reach), min(1.0, middle + reach)


def spelled(bounds: tuple[float, float]) -> str:
    """An interval as tables have it."""
    low, high = bounds
    return f"{100 * low:.0f} to {high:.0%}"
