"""Makes alphaflow/data/digits.npz from scikit-learn's copy of the UCI digits: how the embedded file came about.

    pip install scikit-learn && python benchmarks/embedded_digits.py OUT.npz

Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, UCI Machine Learning Repository (1998),
https://doi.org/10.24432/C50P49, licensed CC BY 4.0; scikit-learn carries its test set, 1,797 digits. The values are
unchanged: ``ink`` (1797, 8, 8), 0 … 16, and ``labels`` (1797,), 0 … 9, both 8-bit.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np


def write(out: Path) -> None:
    """Writes the digits to a compressed .npz of about 60 kB."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    ink, labels = digits.images.astype(np.uint8), digits.target.astype(np.uint8)
    assert ink.shape == (1797, 8, 8)
    assert (ink == digits.images).all()
    np.savez_compressed(out, ink=ink, labels=labels)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
