import pytest

from titans.report.interval import interval


@pytest.mark.parametrize(
    ("right", "samples", "low", "high"),
    [  # Newcombe (1998), Two-sided confidence intervals for the single proportion, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1.0000),
    ],
)
def test_it_is_wilsons(right, samples, low, high):
    assert interval(right / samples, samples) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("share", "samples"), [(0.5, 0), (-0.1, 10), (1.1, 10), (float("nan"), 10)])
def test_it_refuses_what_is_no_share(share, samples):
    with pytest.raises(ValueError, match=r"share is .* and samples"):
        interval(share, samples)
