"""Draws docs/which-objective.png: every objective between the three corners of flow maps.

    python benchmarks/corners.py

A jump t → r may be cut at a time s. Where s tends to t is the Eulerian corner, where it tends to r the Lagrangian one;
with s in between a jump is made of two. Objectives that train only jumps to the data, r = 0, are in italics.
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

INK, SOFT, ACCENT = "#1f2933", "#7b8794", "#b83280"
EULER, LAGRANGE, PROGRESSIVE, CENTRE = (0.0, 0.0), (10.0, 0.0), (5.0, 7.2), (5.0, 2.35)


def main() -> None:
    """Draws and writes."""
    figure = Figure(figsize=(10.4, 7.2), dpi=110)
    axes = figure.add_axes((0.01, 0.01, 0.98, 0.98))
    axes.set_xlim(-3.0, 13.0)
    axes.set_ylim(-2.6, 9.2)
    axes.axis("off")
    for a, b in ((EULER, PROGRESSIVE), (PROGRESSIVE, LAGRANGE), (EULER, LAGRANGE)):
        axes.plot(*zip(a, b, strict=True), color="#cbd2d9", linewidth=2, zorder=1)

    def corner(place: tuple[float, float], title: str, what: str, names: str, only_zero: str, up: bool) -> None:
        axes.plot(*place, "o", color=ACCENT, markersize=11, zorder=3)
        x, y = place[0], place[1] + (1.75 if up else -0.42)
        for text, size, colour, weight, style, step in (
            (title, 13, INK, "bold", "normal", 0.44),
            (what, 9.5, SOFT, "normal", "normal", 0.42),
            (names, 10.5, INK, "normal", "normal", 0.42),
            (only_zero, 10.5, INK, "normal", "italic", 0.0),
        ):
            axes.text(x, y, text, ha="center", va="top", fontsize=size, color=colour, weight=weight, style=style)
            y -= step * (1 + text.count("\n"))

    corner(
        EULER, "Eulerian", "the start of the jump moves: du/dt at (z_t, t)",
        "MeanFlow, ImprovedMeanFlow, TransitionModel,\nDecoupledMeanFlow, AlignYourFlow",
        "ContinuousConsistency, FACM", up=False,
    )  # fmt: skip
    corner(LAGRANGE, "Lagrangian", "the end of the jump moves: ∂u/∂r, and u at (ẑ_r, r)",
           "Lagrangian, TerminalVelocity", "", up=False)  # fmt: skip
    split = "Shortcut (s halfway), SplitMeanFlow (any s)"
    corner(PROGRESSIVE, "progressive", "two jumps t → s → r make one", split, "", up=True)
    axes.plot(*CENTRE, "o", color=INK, markersize=9, zorder=3)
    names = "FlowMatching (r = t)\nTrajectoryFlowMatching (α = 1)"
    axes.text(5.0, 2.65, names, ha="center", va="bottom", fontsize=10.5, color=INK)
    axes.annotate(
        "", xy=(0.28, 0.14), xytext=(4.75, 2.24), arrowprops={"arrowstyle": "-|>", "color": ACCENT, "lw": 2.2}
    )
    for x, y, text, size, style in (
        (3.1, 1.6, "AlphaFlow", 10.5, "normal"),
        (2.1, 1.12, "SoFlow", 10.5, "normal"),
        (5.4, 1.1, "ConsistencyTraining", 10.5, "italic"),
        (3.4, 0.62, "α: 1 → 0", 9.5, "normal"),
    ):
        axes.text(x, y, text, ha="right", va="bottom", fontsize=size, color=ACCENT, style=style)
    for x, y, text, angle in ((2.2, 3.75, "s → t", 55), (7.8, 3.75, "s → r", -55)):
        axes.text(x, y, text, ha="center", va="center", fontsize=10, color=SOFT, rotation=angle)
    figure.savefig(Path(__file__).parent.parent / "docs" / "which-objective.png", facecolor="white")


if __name__ == "__main__":
    main()
