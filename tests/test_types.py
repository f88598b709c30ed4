"""Conditions: picking, dropping, joining, and never changing what was given."""

from __future__ import annotations

import pytest
import torch

import alphaflow as af


def test_cond_holds_picks_and_joins() -> None:
    cond = af.Cond(labels=torch.tensor([3, 1, 2]), text=torch.arange(6.0).view(3, 2))
    picked = cond[torch.tensor([True, False, True])]
    assert picked.labels is not None
    assert picked.labels.tolist() == [3, 2]
    assert picked.text.tolist() == [[0, 1], [4, 5]]
    joined = af.Cond.cat([cond, picked])
    assert joined.text.shape == (5, 2)
    with pytest.raises(AttributeError, match="no condition 'audio'"):
        _ = cond.audio


def test_drop_and_null_leave_the_original() -> None:
    labels, text = torch.tensor([3, 1, 2]), torch.ones(3, 2)
    cond = af.Cond(labels=labels, text=text)
    dropped = cond.drop(torch.tensor([False, True, False]))
    assert dropped.labels is not None
    assert dropped.labels.tolist() == [3, af.NO_CLASS, 2]
    assert dropped.text.tolist() == [[1, 1], [0, 0], [1, 1]]
    null = cond.null()
    assert null.labels is not None
    assert null.labels.tolist() == [af.NO_CLASS] * 3
    assert labels.tolist() == [3, 1, 2]
    assert text.sum() == 6


def test_class_index() -> None:
    cond = af.Cond(labels=torch.tensor([0, af.NO_CLASS, 4]))
    assert cond.class_index(10, 3, torch.device("cpu")).tolist() == [0, 10, 4]
    assert af.Cond().class_index(10, 2, torch.device("cpu")).tolist() == [10, 10]
    assert af.Cond().null().labels is None


def test_labels_are_of_the_classes_or_none() -> None:
    """1-based labels would train the last class as 'no class'."""
    for label in (10, 11, -2):
        with pytest.raises(ValueError, match=f"label {label} of sample 1 is out of range: labels are 0 to 9, or -1"):
            af.Cond(labels=torch.tensor([3, label, label])).class_index(10, 3, torch.device("cpu"))
    model = af.DiT((1, 8, 8), patch=4, depth=1, width=16, heads=2, classes=10)
    with pytest.raises(ValueError, match="label 10 of sample 0"):
        af.ODE(1)(model, torch.randn(2, 1, 8, 8), af.Cond(labels=torch.tensor([10, 0])))


def test_wrong_conditions() -> None:
    with pytest.raises(ValueError, match="same batch size"):
        af.Cond(labels=torch.tensor([1, 2]), text=torch.zeros(3, 1))
    with pytest.raises(ValueError, match="integers"):
        af.Cond(labels=torch.tensor([1.0, 2.0]))
