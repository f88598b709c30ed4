"""Exported runs, damaged and misused; `alphaflow export`'s places, options and extras; a Hub on this machine."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import alphaflow as af

for extra in ("onnx", "onnxruntime", "onnxscript", "huggingface_hub"):
    pytest.importorskip(extra)

ROOT = str(Path(af.__file__).resolve().parent.parent)
LABELS = torch.tensor([3, 7, 3])
Change = Callable[[Path], object]


def python(code: str, *arguments: str | Path, cwd: Path, **environment: str) -> str:
    """What a process of its own prints; it finds alphaflow."""
    there = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ROOT, **environment}
    call = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(call, cwd=cwd, env=there, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def digits(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return af.export(af.Run(small_run, device="cpu"), tmp_path_factory.mktemp("exported") / "digits")


@pytest.fixture
def copied(digits: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(digits, tmp_path / "copied"))


def edit(*path: str, value: Any) -> Change:
    """Changes one entry of config.json."""

    def change(place: Path) -> None:
        config = json.loads((place / "config.json").read_text())
        inner = config
        for name in path[:-1]:
            inner = inner[name]
        inner[path[-1]] = value
        (place / "config.json").write_text(json.dumps(config))

    return change


def huge_without_weights(place: Path) -> None:
    edit("model", "classes", value=10**6)(place)
    edit("model", "width", value=10_000)(place)
    (place / "model.safetensors").unlink()


DAMAGE: dict[str, tuple[Change, str]] = {
    "no config": (lambda p: (p / "config.json").unlink(), r"holds no config\.json"),
    "garbled": (lambda p: (p / "config.json").write_text("{"), r"config\.json is damaged"),
    "no JSON object": (lambda p: (p / "config.json").write_text("[]"), "incomplete"),
    "another class": (edit("model", "type", value="Popen"), "which is not one of"),
    "a huge network": (edit("model", "width", value=16_384), "can't hold"),
    "a huge network, no weights": (huge_without_weights, "model.safetensors is missing"),
    "no sampler": (edit("samplers", "1", value=None), "None"),
    "another sampler's number": (edit("samplers", "1", "steps", value=3), "sampler"),
    "another shape": (edit("data", "shape", value=[3, 8, 8]), "shape"),
    "no weights": (lambda p: (p / "model.safetensors").unlink(), "is missing"),
    "cut short": (lambda p: os.truncate(p / "model.safetensors", 9_999), "damaged or cut short"),
    "other weights": (lambda p: save_file({"w": torch.ones(2)}, p / "model.safetensors"), "of another network"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_exports(name: str, copied: Path) -> None:
    change, message = DAMAGE[name]
    change(copied)
    with pytest.raises(af.UserError, match=message) as raised:
        af.load(copied, device="cpu")([0])
    assert "\n" not in str(raised.value)


def test_other_files_are_not_touched(copied: Path, digits: Path) -> None:
    for name in ("recipe.py", "evil.py", "model.pt", "ema.bin", "__init__.py"):
        (copied / name).write_text("raise SystemExit")
    (copied / "modules").mkdir()
    assert torch.equal(af.load(copied, device="cpu")(LABELS).samples, af.load(digits, device="cpu")(LABELS).samples)


def test_what_a_pipe_takes_and_gives(digits: Path) -> None:
    pipe = af.load(digits, device="cpu")
    made = pipe([3, 7], steps=1)
    assert [image.size for image in made.images] == [(8, 8), (8, 8)]
    assert np.array_equal(np.asarray(made.images[1]), made.samples[1, 0].numpy())
    for same in (torch.tensor([3, 7]), np.array([3, 7]), (3, 7), range(3, 8, 4)):
        assert torch.equal(pipe(same).samples, made.samples)
    assert pipe(count=2).samples.shape == (2, 1, 8, 8)
    assert pipe([-1]).samples.dtype == torch.uint8
    with pytest.raises(af.UserError, match="are no images"):
        _ = pipe([1], dtype=torch.float32).images
    for wrong in ([10], [-2], [1.5], [[1]], [], None, 3, "ab", ["a"], [None], [2**70]):
        with pytest.raises(af.UserError):
            pipe(wrong)
    with pytest.raises(af.UserError, match="nfe"):
        pipe([1], steps=0)
    with pytest.raises(af.UserError, match="no such folder"):
        af.load(digits.parent / "none")


# The command line


def test_places_that_are_taken(small_run: Path, tmp_path: Path, here: Any) -> None:
    (tmp_path / "there.pt2").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    (tmp_path / "there.onnx.data").write_text("mine")
    for out in ("there.pt2", "full", "there.onnx", "there.pt2/x.onnx", "there.pt2/folder"):
        done = here("export", small_run, tmp_path / out)
        assert (done.status, done.err.count("\n")) == (2, 1), out
        assert done.err.startswith("Error: "), out
    for options in (["x", "--nfe", "0"], ["x.pt2", "--nfe", "0"], ["x", "--guidance", "2"], ["x", "--latents"],
                    ["x.pt2", "--license", "mit"], ["x.onnx", "--push", "a/b"], ["x.onnx", "--precision", "bf16"],
                    ["x.pt2", "--guidance", "2", "--nfe", "2"], ["x.pt2", "--checkpoint", "7"]):  # fmt: skip
        done = here("export", small_run, tmp_path / options[0], *options[1:])
        assert (done.status, done.err.count("\n")) == (2, 1), options
    done = here("export", small_run)
    assert "OUT is missing" in done.err
    assert (tmp_path / "there.pt2").read_text() == (tmp_path / "full" / "mine").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "there.onnx.data", "there.pt2"]


def test_an_unfinished_run(small_run: Path, tmp_path: Path, here: Any) -> None:
    run = Path(shutil.copytree(small_run, tmp_path / "run"))
    edited = {**json.loads((run / "run.json").read_text()), "steps": 99}
    (run / "run.json").write_text(json.dumps(edited))
    for out in ("out", "out.pt2"):
        done = here("export", run, tmp_path / out)
        assert "at step 12 of 99" in done.err
        assert "--checkpoint 12" in done.err
        assert not (tmp_path / out).exists()
    assert here("export", run, tmp_path / "out", "--checkpoint", "12").status == 0
    assert "12 of 99" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("missing", ["onnxruntime", "onnxscript", "huggingface_hub"])
def test_extras_that_are_missing(missing: str, small_run: Path, tmp_path: Path, here: Any, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, f"{missing}.errors", raising=False)
    of_hub = missing == "huggingface_hub"
    done = here("export", small_run, *(["--push", "me/digits"] if of_hub else [tmp_path / "x.onnx"]))
    assert f"pip install 'alphaflow[{'hub' if of_hub else 'onnx'}]'" in done.err
    assert done.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


# The Hub

COMMIT = "a" * 40


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub as one repository needs."""

    files: dict[str, bytes] = {}  # noqa: RUF012
    blobs: dict[str, bytes] = {}  # noqa: RUF012
    broken = False

    def answer(self, body: Any, status: int = 200, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path, host = self.path.partition("?")[0].strip("/"), f"http://{self.headers['Host']}"
        if "hangs" in path or b"hangs" in body:
            self.close_connection = True
        elif "denied" in path or b"denied" in body:
            self.answer({"error": "Invalid username or password."}, 401)
        elif path == "api/repos/create":
            self.answer({"url": f"{host}/me/digits"})
        elif path == "api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif path.endswith("/preupload/main"):
            names = [each["path"] for each in json.loads(body)["files"]]
            mode = {True: "lfs", False: "regular"}
            told = [{"path": n, "uploadMode": mode[n.endswith("safetensors")], "shouldIgnore": False} for n in names]
            self.answer({"files": told})
        elif path.endswith("info/lfs/objects/batch"):
            objects = [
                {**each, "actions": {"upload": {"href": f"{host}/blobs/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            self.answer({"transfer": "basic", "objects": objects}, Content_Type="application/vnd.git-lfs+json")
        elif path.startswith("blobs/"):
            self.blobs[path.removeprefix("blobs/")] = body
            self.answer(b"")
        elif path.endswith("/commit/main"):
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] in ("file", "lfsFile"):
                    content = base64.b64decode(value["content"]) if "content" in value else self.blobs[value["oid"]]
                    self.files[value["path"]] = content
            self.answer({"commitUrl": f"{host}/me/digits/commit/{COMMIT}", "commitOid": COMMIT})
        elif path.startswith("api/models/me/digits/tree/"):
            tree = [{"type": "file", "path": n, "size": len(b), "oid": "0" * 40} for n, b in self.files.items()]
            self.answer(tree)
        elif path.startswith("api/models/me/digits"):
            siblings = [{"rfilename": name} for name in self.files]
            self.answer({"id": "me/digits", "sha": COMMIT, "private": False, "tags": [], "siblings": siblings})
        elif path.partition(f"me/digits/resolve/{COMMIT}/")[2] in self.files:
            content = self.files[path.partition(f"{COMMIT}/")[2]]
            self.answer(content, ETag=f'"{hashlib.sha256(content).hexdigest()}"', X_Repo_Commit=COMMIT)
        else:
            self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")

    do_POST = do_PUT = do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment in which huggingface_hub speaks with a Hub here."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_TOKEN": "hf_none", "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(tmp_path / "cache"), "no_proxy": "*",
    }  # fmt: skip
    server.shutdown()
    server.server_close()


PUSH = """
import sys
import alphaflow as af
from alphaflow.cli.main import main
for name in ("me/digits", "denied/digits", "hangs/digits", "digits"):
    sys.argv = ["alphaflow", "export", sys.argv[-1], "--push", name] if name == "me/digits" else [*sys.argv[:-1], name]
    try:
        main()
    except SystemExit as ended:
        print(name, ended.code, flush=True)
"""
LOAD = """
import sys
import numpy as np
import alphaflow as af
np.save("found.npy", af.load("me/digits", device="cpu")([3, 7, 3]).samples)
for name in ("denied/digits", "none/digits", "hangs/digits"):
    try:
        af.load(name)
    except af.UserError as error:
        print(name, error)
"""


@pytest.mark.slow
def test_to_the_hub_and_back(hub: dict[str, str], small_run: Path, tmp_path: Path) -> None:
    """Pushed by one process and fetched by another; what could be run is not fetched; each fault is one line."""
    said = python(PUSH, small_run, cwd=tmp_path, **hub)
    assert re.findall(r"^(\S+) (\d)$", said, re.MULTILINE) == [
        ("me/digits", "0"), ("denied/digits", "2"), ("hangs/digits", "2"), ("digits", "2"),
    ]  # fmt: skip
    assert Hub.files.keys() >= {"README.md", "config.json", "model.safetensors", "samples.png"}
    assert 'af.load("me/digits")' in Hub.files["README.md"].decode()
    Hub.files |= {"evil.py": b"raise SystemExit", "autoencoder/evil.bin": b"", "autoencoder/evil.py": b""}
    lines = python(LOAD, cwd=tmp_path, **hub).splitlines()
    assert [line.split()[0] for line in lines] == ["denied/digits", "none/digits", "hangs/digits"]
    found = torch.from_numpy(np.load(tmp_path / "found.npy"))
    assert torch.equal(found, af.Run(small_run, device="cpu").sample(labels=LABELS))
    fetched = {file.name for file in (tmp_path / "cache").rglob("snapshots/*/*") if file.is_file()}
    assert fetched == {"README.md", "config.json", "model.safetensors"}
    assert not list((tmp_path / "cache").rglob("evil*"))


def test_a_hub_that_is_not_there(small_run: Path, here: Any, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("no_proxy", "*")
    for name in [name for name in os.environ if name.lower().endswith("_proxy") and name.lower() != "no_proxy"]:
        monkeypatch.delenv(name)
    for address in ("http://127.0.0.1:9", "nonsense", "http://127.0.0.1:99999"):
        monkeypatch.setenv("HF_ENDPOINT", address)
        done = here("export", small_run, "--push", "me/digits")
        assert done.status == 2
        assert done.err.splitlines()[-1].startswith("Error: can't push to me/digits")
        with pytest.raises(af.UserError, match=r"can't be reached|can't fetch"):
            af.load("nobody/nothing-of-this-name")
