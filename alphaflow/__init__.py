"""alphaflow: few-step image and video generators. Compose a model, an objective, a schedule, a sampler, a dataset.

``import alphaflow as af`` is quick: public names are loaded when they are first used.
"""

from pathlib import Path as _Path

import lazy_loader as _lazy

from .version import __version__ as __version__

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)

# In a checkout, cli/, data_tools/ and recipes/ stand beside this package; an installed copy has them inside it.
_root = _Path(__file__).resolve().parent.parent
if (_root / "noxfile.py").is_file():
    __path__.append(str(_root))
