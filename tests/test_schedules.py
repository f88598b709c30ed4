"""Every schedule against its formula, in the middle, at both ends, and beyond them."""

from __future__ import annotations

import math

import pytest

import alphaflow as af

START, END = 1000, 5000


def expected(kind: str, p: float, first: float, last: float, gamma: float) -> float:
    """The published formula at progress p, written out a second time."""
    if kind == "Linear":
        return (1 - p) * first + p * last
    if kind == "Exponential":
        return math.exp((1 - p**gamma) * math.log(first) + p**gamma * math.log(last))
    if kind == "Logarithmic":
        return first - (first - last) * math.log(1 + 9 * p) / math.log(10)
    if kind == "Cosine":
        return last + (first - last) * math.cos(math.pi * p / 2) ** 2
    return last + (first - last) * (1 - 1 / (1 + math.exp(-gamma * (p - 0.5))))


@pytest.mark.parametrize("kind", ["Linear", "Exponential", "Logarithmic", "Cosine", "Sigmoid"])
@pytest.mark.parametrize(("first", "last"), [(1.0, 0.25), (0.125, 0.75)])
def test_formula_inside_and_constant_outside(kind: str, first: float, last: float) -> None:
    gamma = 3.0
    options = {"gamma": gamma} if kind in ("Exponential", "Sigmoid") else {}
    schedule = getattr(af, kind)(start=START, end=END, first=first, last=last, clamp=0.0, **options)
    for step in (START, START + 1, 2000, 3000, 4999, END):
        p = (step - START) / (END - START)
        assert schedule(step) == pytest.approx(expected(kind, p, first, last, gamma), rel=1e-12)
    for before in (0, START - 1):
        assert schedule(before) == first
    for after in (END + 1, 10 * END):
        assert schedule(after) == last


def test_ends_are_reached() -> None:
    for schedule in (af.Linear(0, 100), af.Logarithmic(0, 100), af.Cosine(0, 100)):
        assert schedule(0) == pytest.approx(1, abs=1e-12)
        assert schedule(100) == pytest.approx(0, abs=1e-12)


def test_sigmoid_is_the_papers() -> None:
    alpha = af.Sigmoid(end=400_000)
    for step in (100_000, 150_000, 200_000, 250_000):
        raw = 1 - 1 / (1 + math.exp(-25 * (step / 400_000 - 0.5)))
        clamped = 0.0 if raw < 5e-3 else 1.0 if raw > 1 - 5e-3 else raw
        assert alpha(step) == pytest.approx(clamped, rel=1e-12)
    assert alpha(200_000) == 0.5
    assert alpha(0) == alpha(100_000) == 1
    assert alpha(300_000) == alpha(400_000) == alpha(500_000) == 0


def test_clamp_edges() -> None:
    """Just inside the clamp values pass; just outside they become 0 or 1."""
    schedule = af.Linear(0, 1000, clamp=5e-3)
    assert schedule(4) == 1
    assert schedule(6) == pytest.approx(0.994)
    assert schedule(994) == pytest.approx(0.006)
    assert schedule(996) == 0


def test_constant_and_step() -> None:
    assert af.Constant(0.3)(10**9) == 0.3
    step = af.StepSchedule(10, first=0.7, last=0.2)
    assert [step(k) for k in (0, 9, 10, 11)] == [0.7, 0.7, 0.2, 0.2]


def test_exponential_goes_to_zero_by_default() -> None:
    schedule = af.Exponential(end=100)
    assert schedule(0) == 1
    assert schedule(50) == pytest.approx(math.sqrt(1e-3))
    assert schedule(100) == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: af.Linear(), "end > start"),
        (lambda: af.Sigmoid(start=5, end=5), "end > start"),
        (lambda: af.Cosine(end=5, clamp=0.7), "clamp"),
        (lambda: af.Exponential(end=5, last=0.0), "last > 0"),
        (lambda: af.Sigmoid(end=5, first=1e-3, last=1e-4), "give clamp=0"),  # would be 0 all along
    ],
)
def test_wrong_arguments(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


def test_printing_builds_it_again() -> None:
    for schedule in (af.Sigmoid(start=3, end=10, gamma=12.0), af.Constant(0.5), af.StepSchedule(7)):
        assert eval(repr(schedule), vars(__import__("alphaflow.schedules", fromlist=["x"]))) == schedule


def test_doubling_is_icts_schedule() -> None:
    """N(k) = min(s₀·2^⌊k/K′⌋, s₁) + 1 points, K′ = ⌊K/(log₂⌊s₁/s₀⌋ + 1)⌋; iCT's s₀ = 10, s₁ = 1280, K = 400,000."""
    schedule = af.DoublingIntervals(end=400_000)
    assert [schedule(k) for k in (0, 49_999, 50_000, 199_999, 349_999, 350_000, 400_000, 10**9)] == [
        10, 10, 20, 80, 640, 1280, 1280, 1280,
    ]  # fmt: skip
    assert af.DoublingIntervals(end=3, first=4, last=4)(2) == 4
