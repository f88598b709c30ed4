"""alphaflow: few-step image and video generators. Compose a model, an objective, a schedule, a sampler, a dataset.

``import alphaflow as af`` is quick: public names are loaded when they are first used.
"""

import importlib.machinery as _machinery
import sys as _sys
from importlib.util import spec_from_file_location as _spec
from pathlib import Path as _Path

import lazy_loader as _lazy

from .version import __version__ as __version__

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)

_CHECKOUT = _Path(__file__).resolve().parent.parent


class _Beside:
    """Finds cli/, data_tools/ and recipes/, which stand beside this package in a checkout, and in it once installed."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> _machinery.ModuleSpec | None:
        """The import system asks for modules by this."""
        package, _, inner = name.partition(".")
        if package != __name__ or inner not in ("cli", "data_tools", "recipes"):
            return None
        return _spec(name, _CHECKOUT / inner / "__init__.py", submodule_search_locations=[str(_CHECKOUT / inner)])


if (_CHECKOUT / "noxfile.py").is_file():
    _sys.meta_path.insert(0, _Beside)  # type: ignore[arg-type]  # before what finds an installed copy
