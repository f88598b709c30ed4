"""Exported folders to and from the Hugging Face Hub, by huggingface_hub."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

from ..errors import UserError, said
from ..hub import check_hub, unreachable

AUTOENCODER = [f"autoencoder/{name}" for name in ("config.json", "*.safetensors", "*.safetensors.index.json")]
FILES = ["README.md", "config.json", "model.safetensors", *AUTOENCODER]
"""What of a repository is fetched: nothing that could be run."""


def fetched(name: str) -> Path:
    """The folder of a repository's files, OWNER/NAME, in huggingface_hub's cache; fetched where they changed.

    Raises:
        UserError: there is none, it can't be reached and isn't cached, or huggingface_hub isn't installed.
    """
    remedy = "give a folder that an export made"
    try:
        check_hub("generator", name, remedy)
        return _snapshot(name)
    except UserError:
        try:
            return _snapshot(name, local_files_only=True)
        except UserError:
            pass
        raise


def push(folder: Path, name: str) -> str:
    """Uploads a folder to a repository, OWNER/NAME, which is made if it isn't there; returns its address.

    Raises:
        UserError: it can't be reached, you may not, or huggingface_hub isn't installed.
    """
    check_push(name)
    hub = _library()
    api = hub.HfApi()
    try:
        address = api.create_repo(name, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Export of an alphaflow run")
    except Exception as error:  # whatever its HTTP library makes of a connection
        remedy = "; `hf auth login` gives access" if isinstance(error, hub.errors.HfHubHTTPError) else ""
        raise UserError(f"can't push to {name}: {said(error)}{remedy}") from error
    return str(address)


def check_push(name: str) -> None:
    """Refuses a repository that can't be pushed to, before long work.

    Raises:
        UserError: it has no such name, the Hub can't be reached, or huggingface_hub isn't installed.
    """
    _library()
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise UserError(f"a repository of the Hub is named OWNER/NAME, not {name!r}")
    if problem := unreachable():
        raise UserError(f"can't push to {name}: {problem}")


def _snapshot(name: str, **options: Any) -> Path:
    hub = _library()
    try:
        return Path(hub.snapshot_download(name, allow_patterns=FILES, **options))
    except Exception as error:  # whatever its HTTP library makes of a connection
        raise UserError(f"can't fetch {name}: {said(error)}") from error


def _library() -> Any:
    try:
        importlib.import_module("huggingface_hub.errors")
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise UserError("the Hub needs huggingface_hub: pip install 'alphaflow[hub]'") from error
