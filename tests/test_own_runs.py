"""Runs of networks of one's own, opened anywhere: with the network, or with what the run keeps of its recipe."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import alphaflow as af
from alphaflow.recipe_files import find_recipe
from alphaflow.recipe_modules import own_modules
from alphaflow.runs.folder import RunFolder
from alphaflow.runs.record import Origin

RECIPE = '''"""Points, by a network in a module beside the recipe."""
from pathlib import Path
import alphaflow as af
import shifted_network
from own_parts.rows import Rows

def recipe(*, data: Path = Path("rows.npy"), steps: int = 1) -> af.Recipe:
    return af.Recipe(model=shifted_network.Shifted(), objective=af.MeanFlow(), dataset=Rows(data), steps=steps,
                     samplers=(af.ODE(1),), lr=0.0)
'''
NETWORK = """
import torch
import alphaflow as af
from own_parts import layers
class Shifted(af.Network):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(()))
    def forward(self, z, r, t, cond):
        return self.w * z - layers.SHIFT
"""
ROWS = """
import numpy as np, torch
import alphaflow as af
class Rows(af.IndexedDataset):
    def __init__(self, file):
        super().__init__(4, 0)
        self.x = torch.from_numpy(np.load(file))
        self.shape = tuple(self.x.shape[1:])
    def __len__(self):
        return len(self.x)
    def fetch(self, indices, generator=None):
        return af.Batch(self.x[torch.as_tensor(indices)])
"""
NAMES = ("shifted_network", "own_parts")


class Shifted(af.Network):
    """The same network, at hand."""

    def __init__(self) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.ones(()))

    def forward(self, z: Tensor, r: Tensor, t: Tensor, cond: af.Cond) -> Tensor:
        return self.w * z - 1


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    """What these tests import is forgotten again."""
    path = list(sys.path)
    yield
    sys.path[:] = path
    for name in [name for name in sys.modules if name.partition(".")[0] in NAMES]:
        del sys.modules[name]


def project(place: Path, shift: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one's own with a recipe, its modules and data by a relative path; gives the run."""
    (place / "own_parts").mkdir(parents=True)
    (place / "mine.py").write_text(RECIPE)
    (place / "shifted_network.py").write_text(NETWORK)
    (place / "unrelated.py").write_text("raise SystemExit")
    (place / "own_parts" / "__init__.py").write_text("")
    (place / "own_parts" / "rows.py").write_text(ROWS)
    (place / "own_parts" / "layers.py").write_text(f"SHIFT = {shift}\n")
    np.save(place / "rows.npy", np.zeros((8, 2), dtype=np.float32))
    monkeypatch.chdir(place)
    for name in [name for name in sys.modules if name.partition(".")[0] in NAMES]:
        del sys.modules[name]
    found = find_recipe("mine.py")
    origin = Origin(found.name, found.text, "recipe", {"data": "rows.npy"}, str(found.folder), str(place))
    af.Trainer(found(data=Path("rows.npy")), out="run", origin=origin, sample_every=None).fit()
    return place / "run"


def shift_of(run: af.Run) -> float:
    """x = z − u = z + shift, the weight being 0."""
    noise = torch.zeros(3, 2)
    return float(run.sample(noise=noise).mean())


def test_a_network_that_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets the run's weights; nothing of the run is executed, and nothing else of it has to be there."""
    run = project(tmp_path / "a", 1, monkeypatch)
    moved = Path(shutil.move(run, tmp_path / "elsewhere"))
    shutil.rmtree(tmp_path / "a" / "own_parts")
    (moved / "recipe.py").write_text("raise SystemExit('run')")
    (moved / "modules" / "shifted_network.py").write_text("raise SystemExit('run')")
    model = Shifted()
    opened = af.Run(moved, model=model, device="cpu")
    assert opened.model is model
    assert float(model.w) == 0
    assert not model.training
    assert shift_of(opened) == 1
    with pytest.raises(af.UserError, match=r"recipe\.py would be run.*give its network: af\.Run\(…, model=…\)"):
        af.Run(moved)
    with pytest.raises(af.UserError, match="weights of another network"):
        af.Run(moved, model=torch.nn.Linear(2, 2))


def test_modules_are_kept_with_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they were: what is beside the recipe may change or go; two runs' modules of one name don't mix."""
    first = project(tmp_path / "a", 1, monkeypatch)
    second = project(tmp_path / "b", 2, monkeypatch)
    kept = sorted(file.relative_to(first / "modules").as_posix() for file in (first / "modules").rglob("*.py"))
    assert kept == ["own_parts/__init__.py", "own_parts/layers.py", "own_parts/rows.py", "shifted_network.py"]
    (tmp_path / "a" / "own_parts" / "layers.py").write_text("SHIFT = 7\n")
    monkeypatch.chdir(tmp_path)  # data is relative to where training was started
    opened = [af.Run(run, trust=True, device="cpu") for run in (first, second, first)]
    assert [shift_of(run) for run in opened] == [1, 2, 1]
    moved = Path(shutil.move(first, tmp_path / "elsewhere"))
    shutil.move(tmp_path / "a", tmp_path / "gone")
    with pytest.raises(af.UserError, match=r"rows\.npy.*give its network: af\.Run\(…, model=…\)"):
        af.Run(moved, trust=True)
    shutil.copy(tmp_path / "gone" / "rows.npy", moved / "rows.npy")
    assert shift_of(af.Run(moved, trust=True, device="cpu")) == 1
    assert len(af.Run(moved, trust=True).recipe().dataset.indexed or ()) == 8


def test_recipes_of_one_process_have_modules_of_their_own(tmp_path: Path) -> None:
    """Each imports what lies beside it; whatever else is loaded, alphaflow's modules too, stays."""
    text = "import alphaflow as af\nimport beside_it\n\ndef recipe(*, steps: int = beside_it.STEPS) -> af.Recipe: ...\n"
    for name, steps in (("a", 1), ("b", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rec.py").write_text(text)
        (tmp_path / name / "beside_it.py").write_text(f"STEPS = {steps}\n")
    own = importlib.import_module("alphaflow.recipes.digits")
    assert own.__file__ is not None
    af.find_recipe(own.__file__)  # in a folder of alphaflow's own modules
    (tmp_path / "b" / "alphaflow").mkdir()
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in ("alphaflow", "torch")}
    found = [af.find_recipe(str(tmp_path / name / "rec.py")).parameters[0].default for name in ("a", "b", "a")]
    assert found == [1, 2, 1]
    assert all(sys.modules[name] is module for name, module in before.items())


def test_modules_of_a_run_are_not_imported_without_trust(tmp_path: Path) -> None:
    """Neither beside a recipe that equals a built-in one, nor where the network is described."""
    made = af.Recipe(
        model=af.DiT((1, 8, 8), patch=4, depth=1, width=16, heads=2, classes=10), objective=af.MeanFlow(),
        dataset=af.Digits(batch_size=4), steps=1, samplers=(af.ODE(1),),
    )  # fmt: skip
    af.Trainer(made, out=tmp_path / "run", sample_every=None).fit()
    assert not (tmp_path / "run" / "modules").exists()
    (tmp_path / "run" / "modules").mkdir()
    (tmp_path / "run" / "modules" / "shifted_network.py").write_text("raise SystemExit('run')")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    record["recipe"]["folder"] = str(tmp_path / "run" / "modules")
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    assert af.Run(tmp_path / "run", device="cpu").sample(2).shape == (2, 1, 8, 8)
    assert "shifted_network" not in sys.modules


def test_a_source_of_ones_own_needs_the_recipe(tmp_path: Path) -> None:
    made = af.Recipe(
        model=Shifted(), objective=af.MeanFlow(source=lambda noise, cond: 2 * noise), dataset=Points(), steps=1,
        samplers=(af.ODE(1),), lr=0.0,
    )  # fmt: skip
    af.Trainer(made, out=tmp_path / "run", sample_every=None).fit()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["source"] is None
    with pytest.raises(af.UserError, match=r"composed in Python and has no recipe\.py"):
        af.Run(tmp_path / "run", model=Shifted())


class Points(af.IndexedDataset):
    """Zeros in the plane."""

    shape = (2,)

    def __init__(self) -> None:
        super().__init__(4, 0)

    def __len__(self) -> int:
        return 8

    def fetch(self, indices: Any, generator: Any = None) -> af.Batch:
        return af.Batch(torch.zeros(len(indices), 2))


def test_which_modules_are_ones_own(tmp_path: Path) -> None:
    """Those that imports name, in functions too and relative ones; not what lies beside, nor more than is small."""
    for name, text in (
        ("one.py", "import torch, two\nfrom pkg.sub import thing"), ("two.py", "import one"), ("three.py", ""),
        ("pkg/__init__.py", "from . import beside"), ("pkg/beside.py", "from .sub.thing import x"),
        ("pkg/sub/thing.py", "x = 1"), ("pkg/other.py", ""), ("broken.py", "def ("),
    ):  # fmt: skip
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (tmp_path / "secret").mkdir()
    found = own_modules("def f():\n    import one\nimport broken, secret", tmp_path)
    names = {"one.py", "two.py", "pkg/__init__.py", "pkg/beside.py", "pkg/sub/thing.py", "broken.py"}
    assert {file.as_posix() for file in found} == names
    (tmp_path / "two.py").write_text("#" * 2**22)
    assert own_modules("import one", tmp_path) == {}


def test_a_folder_of_modules_that_is_not_the_runs_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One's own folder of that name is no run that was begun; the run's is, where a process was killed at once."""
    run = project(tmp_path / "a", 1, monkeypatch)
    for name in ("checkpoints", "metrics.jsonl", "run.json", ".trained.lock", ".trained.json"):
        place = run / name
        shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
    for events in run.glob("events.*"):
        events.unlink()
    folder, found = RunFolder(run), find_recipe(str(tmp_path / "a" / "mine.py"))
    origin = Origin(found.name, found.text, "recipe", {}, str(found.folder))
    (run / "modules" / "mine.txt").write_text("")
    with pytest.raises(af.UserError, match="is not a run's folder"):
        folder.create(origin, {})
    (run / "modules" / "mine.txt").unlink()
    folder.create(origin, {})
    assert (run / "run.json").is_file()
