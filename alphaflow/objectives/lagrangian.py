"""The Lagrangian corner of flow maps: a jump's end moves with r at the velocity that is found there.

ẑ_r = z_t − (t − r)·u moves with r at u − (t − r)·∂_r u. Where u is the mean velocity, that is the velocity at (ẑ_r, r).
No path through z_t is needed: the target knows data only by the samples with r = t, which teach that velocity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..flow import expand_like, jump
from ..guidance import GuidanceInputs
from ..guidance_input import guidance_at
from ..pairs import GapPairs, PairDistribution
from ..times import TimeDistribution
from ..types import Direction, Model, PerSample, Sample
from ..weighting import UniformWeighting, Weighting
from .loss_function import Differentiated
from .objective import Objective
from .records import RegressionTarget, TrainingDraw


@dataclass(frozen=True, kw_only=True, repr=False)
class Lagrangian(Objective):
    """Lagrangian self-distillation (LSD; flow maps, arXiv 2406.07507 and 2505.18825).

    Target u⁻(ẑ_r, r, r) + (t − r)·∂_r u⁻(z_t, r, t), ẑ_r = z_t − (t − r)·u⁻(z_t, r, t), all without gradient. The other
    two corners in these papers are the Eulerian one, `MeanFlow`, and the progressive one, `SplitMeanFlow`.

    Args:
        fm_share, times, guidance, weighting, teacher, ema_target, derivative: see `Objective`. A teacher and guidance
            act by the samples with r = t only.

    Raises:
        ValueError: no sample has r = t, so that u = 0 would do.
    """

    weighting: Weighting = UniformWeighting()
    wants_velocity: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fm_share == 0:
            raise ValueError(f"{type(self).__name__} knows the data by samples with r = t: an fm_share above 0")

    def along(self, draw: TrainingDraw, step: int) -> Direction:
        """(0, 1, 0): r moves."""
        return Direction(torch.zeros_like(draw.z), torch.ones_like(draw.r), torch.zeros_like(draw.t))

    def target(self, model: Model, draw: TrainingDraw, step: int) -> RegressionTarget:
        """u⁻(ẑ_r, r, r) + (t − r)·∂_r u⁻."""
        z, r, t = draw.z, draw.r, draw.t
        u, change = draw.derivative(model, self.along(draw, step))
        with torch.no_grad():
            end = model(jump(z, u, t, r), r, r, draw.cond)
        return RegressionTarget(end + expand_like(t - r, z) * change, torch.ones_like(t))


@dataclass(frozen=True, kw_only=True, repr=False)
class TerminalVelocity(Lagrangian):
    """Terminal velocity matching (TVM, arXiv 2511.19797): the Lagrangian loss with gradient through ∂_r u.

    ‖u − (t − r)·∂_r u − u⁻(ẑ_r, r, r)‖², beside flow matching. In the paper u⁻ is an average of decay 0.99:
    ``ema_target=True`` with ``Recipe(ema=(0.99, 0.9999))``. There each sample has both losses; here the batch is split
    by fm_share, which is half of their sum in expectation.

    With ``guidance=GuidanceInputs(scales=(1, 4), starts=(0, 0), ends=(1, 1), own=False)`` both losses are divided by
    ω², the guidance scale's square; ``DiT(guidance="scaled")`` multiplies the output by ω.

    ∂_r u needs a derivative that has a gradient. No fused attention has that, nor a network's own tangent: the network
    runs under ``torch.func.jvp`` with plain attention, or twice more with ``derivative="difference"``.

    Args:
        fm_share, times, guidance, weighting, teacher, ema_target, derivative: see `Objective`.
    """

    times: TimeDistribution | PairDistribution = GapPairs()
    differentiated: ClassVar[Differentiated] = "with gradient"

    def few_step_loss(self, u: Sample, target: RegressionTarget, draw: TrainingDraw) -> PerSample:
        """‖u − (t − r)·∂_r u − u⁻(ẑ_r, r, r)‖² ÷ ω², weighted."""
        assert draw.derived is not None, "the prediction comes with its derivative"
        _, change = draw.derived
        moving = expand_like(draw.t - draw.r, u) * (change - change.detach())  # 0, with the gradient of ∂_r u
        return super().few_step_loss(u - moving, target, draw) / self._scale(draw)

    def flow_loss(self, u: Sample, draw: TrainingDraw) -> PerSample:
        """‖u − ṽ‖² ÷ ω², weighted."""
        return super().flow_loss(u, draw) / self._scale(draw)

    def _scale(self, draw: TrainingDraw) -> PerSample:
        """ω² of each sample (b,), or 1."""
        if isinstance(self.guidance, GuidanceInputs) and not self.guidance.own:
            return guidance_at(draw.cond, draw.r, draw.t)[0].square()
        return torch.ones_like(draw.t)
