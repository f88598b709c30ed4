"""Which numbers come of tensors: of features, of points, of probabilities."""

from .frechet import Moments as Moments
from .frechet import RunningMoments as RunningMoments
from .frechet import frechet_distance as frechet_distance
from .inception_score import InceptionScore as InceptionScore
from .kid import kernel_distance as kernel_distance
from .neighbours import label_agreement as label_agreement
from .neighbours import precision_recall as precision_recall
from .wasserstein import sliced_wasserstein as sliced_wasserstein
