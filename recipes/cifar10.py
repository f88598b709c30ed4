"""α-Flow on CIFAR-10, or any folder or zip of small images (CLASS/NAME.jpg or .png), in pixel space."""

from pathlib import Path

import alphaflow as af


def recipe(
    *,
    data: Path = Path("data/cifar10-train.zip"),  # Folder or zip of images, CLASS/NAME.
    size: int = 32,  # Height and width in pixels.
    steps: int = 400_000,  # Number of training steps.
    batch_size: int = 256,  # Number of images in each batch.
    flip: bool = True,  # Mirror half of the images at random.
) -> af.Recipe:
    """DiT-S/2 with the curriculum that anneals α from 1 to 0; every image is cropped and scaled to ``size``."""
    images = af.ImageFolder(data, size=size, batch_size=batch_size, flip=flip)
    return af.Recipe(
        model=af.DiT.S(images.shape, patch=2, classes=images.classes),
        objective=af.AlphaFlow(alpha=af.Sigmoid(end=steps), fm_share=0.5, times=af.LogitNormal(-0.4, 1.0)),
        dataset=images,
        samplers=(af.ODE(1), af.Consistency(2), af.ODE(4)),
        steps=steps,
        lr=2e-4,
    )
