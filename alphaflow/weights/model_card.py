"""The card of an exported run: what it is, how it was trained, how good it was found to be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from ..files import parsed
from ..runs.run import Run
from ..version import __version__

SAMPLES = "samples.png"


def model_card(run: Run, record: Mapping[str, Any], name: str, license: str | None, *, picture: bool) -> str:
    """README.md, with the fields that the Hub reads at its head.

    Args:
        run: the run.
        record: what of run.json is exported.
        name: what the export is called.
        license: licence of the weights, as the Hub names it; None where nobody says.
        picture: whether samples are shown.
    """
    images = picture and len(run.shape) == 3
    head = ["---", "library_name: alphaflow", f"license: {license or 'unknown'}"]
    head += ["pipeline_tag: unconditional-image-generation"] if images else []
    head += ["tags:", "- alphaflow", "- few-step-generation", "---"]
    return "\n".join([*head, "", *_body(run, record, name, license, picture), ""])


def _body(run: Run, record: Mapping[str, Any], name: str, license: str | None, picture: bool) -> Iterator[str]:
    nfes = ", ".join(map(str, sorted(run.samplers)))
    yield f"# {name}"
    yield ""
    yield (
        f"A network of {record['parameters']:,} parameters that makes samples of shape {tuple(run.shape)} in {nfes} "
        f"network evaluations, exported by alphaflow {__version__}."
    )
    if picture:
        yield f"\n![Samples, not chosen by anyone]({SAMPLES})"
    needed = run.conditioning.needed
    first = f"range({min(run.classes, 8)})" if run.classes else "" if needed else "count=8"
    cond = f"cond=af.Cond({', '.join(f'{name}={name}' for name in needed)})" if needed else ""
    call = ", ".join(filter(None, [first, cond, f"steps={min(run.samplers, default=1)}"]))
    yield "\n## Use\n"
    yield "```python"
    yield "import alphaflow as af"
    yield f'pipe = af.load("{name}")'
    yield f"samples = pipe({call}).samples" + (f"  # {run.conditioning.listed(needed)}" if needed else "")
    yield "```"
    yield "\n## Training\n"
    yield "| what | value |\n| --- | --- |"
    for what, value in _settings(record, run.step):
        yield f"| {what} | {_cell(value)} |"
    yield "\n## Evaluation\n"
    yield from _evaluations(run)
    yield "\n## Licence\n"
    yield f"Weights: {license}." if license else "Nobody has stated a licence of these weights."
    yield "The training data have a licence of their own, which is not recorded here."


def _settings(record: Mapping[str, Any], step: int) -> Iterator[tuple[str, Any]]:
    """What is known of how it was trained."""
    recipe, data, came = record["recipe"], record["data"], record.get("converted")
    if came is not None:
        yield "converted from", f"{came['file']}, of {came['project']}, SHA-256 {came['sha256']}"
    else:
        arguments = ", ".join(f"{key}={value!r}" for key, value in recipe["arguments"].items())
        yield "recipe", "composed in Python" if recipe["name"] == "python" else f"{recipe['name']}({arguments})"
        yield "steps", f"{step:,} of {record['steps']:,}"
        for entry in record.get("extended", []):
            changes = ", ".join(f"{name} {was} → {now}" for name, (was, now) in entry["changes"].items())
            yield f"changed at step {entry['step']:,}", changes or "the recipe's code"
        yield "seed", record["seed"]
        yield "started", record.get("started")
        yield "start", record.get("start") or "from scratch"
    yield "samples", f"{tuple(data['shape'])}, {data['classes'] or 'no'} classes"
    for part in (*(("dataset", "objective") if came is None else ()), "model", "autoencoder", "source"):
        yield part, _call(record.get(part))
    yield "versions", ", ".join(f"{key} {value}" for key, value in (record.get("versions") or {}).items())


def _call(described: Any) -> str:
    """A description as the call that it stands for."""
    if isinstance(described, list):
        return f"({', '.join(map(_call, described[:8]))}{', …' if len(described) > 8 else ''})"
    if not isinstance(described, dict):
        return repr(described) if described is not None else "the user's own"
    arguments = ", ".join(f"{k}={_call(v)}" for k, v in described.items() if k != "type" and v is not None)
    return f"{described.get('type', '')}({arguments})"


def _cell(value: Any) -> str:
    """A value as a cell of a table."""
    return str(value).replace("|", "\\|").replace("\n", " ")


def _evaluations(run: Run) -> Iterator[str]:
    """A table for each result of `evaluate` that lies in the run's folder, of this checkpoint."""
    found = False
    for file in sorted(run.folder.path.glob("*.json")):
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            result = parsed(file.read_text(encoding="utf-8"))
            measured = result["run"]
            if (measured["checkpoint"], measured["weights"]) != (run.step, "ema" if run.ema else "raw"):
                continue
            lines = list(_table(result))
            found = True
            yield from lines
    if not found:
        yield "No evaluation of this checkpoint lay in the run's folder when it was exported."


def _table(result: Mapping[str, Any]) -> Iterator[str]:
    reference, guidance = result["reference"], result["run"]["guidance"]
    metrics = list(dict.fromkeys(name for row in result["rows"] for name in row["values"]))
    yield f"| sampler | samples | {' | '.join(metrics)} |"
    yield f"| --- | --- |{' --- |' * len(metrics)}"
    for row in result["rows"]:
        values = (f"{row['values'][name]:.4g}" if name in row["values"] else "–" for name in metrics)
        yield f"| {row['name']} | {row['count']:,} | {' | '.join(values)} |"
    about = "; ".join(f"{name}: {text}" for name, text in result["about"].items())
    scale = "no guidance" if guidance is None else f"guidance {guidance['scale']:g} in {guidance['interval']}"
    yield (
        f"\nAgainst {reference['name'].rpartition('/')[2]} ({reference['count']:,} samples), {scale}, "
        f"{result['rounding']}, {result['date'][:10]}. {about}.\n"
    )
