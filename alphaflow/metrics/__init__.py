"""Which numbers come of tensors: of features, of points, of probabilities."""

from .energy import energy_distance as energy_distance
from .frechet import Moments as Moments
from .frechet import RunningMoments as RunningMoments
from .frechet import frechet_distance as frechet_distance
from .inception_score import InceptionScore as InceptionScore
from .kid import kernel_distance as kernel_distance
from .neighbours import label_agreement as label_agreement
from .neighbours import precision_recall as precision_recall
from .similarity import mse as mse
from .similarity import psnr as psnr
from .similarity import ssim as ssim
from .wasserstein import sliced_wasserstein as sliced_wasserstein
