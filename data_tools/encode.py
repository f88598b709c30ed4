"""Pictures and clips into latent shards: decoded in worker processes while the autoencoder works."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alphaflow.autoencoders.autoencoder import Autoencoder
from alphaflow.data.listing.entry import Entry, Reject
from alphaflow.data.listing.listing import Listing
from alphaflow.data.shard_description import DATASET
from alphaflow.errors import UserError
from alphaflow.files import hold, parsed
from alphaflow.pixel_values import to_unit
from alphaflow.text.text_encoder import TextEncoder

from . import shard_writer
from .dataset_record import about
from .decode import DecodedSample, Decoder, Task, Transform
from .plan import EncodeOptions, plan_of


@dataclass
class EncodingStats:
    """Where encoding stands.

    Attributes:
        total: samples of this job, those done before included.
        done: encoded or rejected, by earlier runs too.
        encoded, rejected: samples encoded and rejected by this run.
        seconds: duration of this run; ``decoding``: waiting for decoded samples; ``encoding``: in the autoencoder.
    """

    total: int
    done: int = 0
    encoded: int = 0
    rejected: int = 0
    decoding: float = 0.0
    encoding: float = 0.0
    started: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Since this run began."""
        return time.perf_counter() - self.started


Watch = Callable[[EncodingStats], None]
"""Is told how encoding goes, after every batch."""


def encode(
    listing: Listing,
    out: Path,
    autoencoder: Autoencoder,
    transform: Transform,
    options: EncodeOptions,
    watch: Watch = lambda stats: None,
    text: TextEncoder | None = None,
) -> EncodingStats:
    """Encodes what was listed into a folder of shards, or goes on where an earlier run stopped.

    The plan is fixed by the listing, in its order (`Listing.mixed`), and the options: sample i is entry i ÷ variants,
    shard n has the samples from n·samples_per_shard on. A shard is made whole or not at all, and is the same whenever
    it is made, so any number of jobs and kills ends in the same files. The last job to finish writes the index.

    Captions are stored as tokens of ``text``, and partners as the same autoencoder's latents (the posterior's means).

    Raises:
        UserError: no `Autoencoder` or `TextEncoder`, captions without one, other settings than the folder was begun
            with, files that aren't those that shards were made of, or too many rejects. What is done stays.
    """
    networks = _Networks(Autoencoder.of(autoencoder), None if text is None else TextEncoder.of(text))
    _check(listing, out, text)
    layout = _Layout(listing.entries, transform.variants, options.samples_per_shard)
    plan = plan_of(autoencoder, transform, options, text, listing.paired)
    shard_writer.begin(out, plan, listing.class_names)
    lock = hold(out, f"encoded-{options.shard}-of-{options.shards}")  # one process a job
    try:
        mine = range(options.shard, layout.count, options.shards)
        done = {n: shard for n, shard in _current(out, plan, layout, listing, options).items() if n in mine}
        todo = [n for n in mine if n not in done]
        shard_writer.sweep_shards(out, options.prefix, set(todo))
        stats = EncodingStats(sum(len(layout.samples(n)) for n in mine), sum(len(layout.samples(n)) for n in done))
        rejects = _Rejects(out, options.max_rejects, listing, list(done.values()), stats)
        with Decoder(transform, options.workers) as decoder:
            stream = decoder(layout.task(index) for n in todo for index in layout.samples(n))
            for n in todo:
                with shard_writer.writing(out, options.prefix, n, layout.made_of(n)) as writer:
                    encoder = _Encoder(networks, layout.task, writer, options.batch_size, stats, watch, rejects)
                    for _ in layout.samples(n):
                        encoder.add(_timed(stream, stats))
                    encoder.flush()
        _finish(out, plan, layout, listing, networks, options)
        return stats
    finally:
        lock.release()


def _finish(
    out: Path, plan: dict[str, Any], layout: _Layout, listing: Listing, networks: _Networks, options: EncodeOptions
) -> None:
    """Writes what is common to all shards, if they are all there."""
    shards = [shard for n, shard in shard_writer.finished_shards(out).items() if n < layout.count]  # in order
    if len(shards) == layout.count and not _stale(shards, layout):
        described = about(out, shards, listing, networks.autoencoder, options, networks.text)
        shard_writer.finish(out, plan, described, shards, listing.rejects)


def _check(listing: Listing, out: Path, text: TextEncoder | None) -> None:
    """Refuses a folder inside what is encoded, and captions without an encoder, or the other way round."""
    if listing.path.is_dir() and out.resolve().is_relative_to(listing.path.resolve()):
        raise UserError(
            f"{out} lies in {listing.path}, and would be read as a part of it next time; choose another place"
        )
    if listing.captioned != (text is not None):
        raise UserError("captions and a text encoder go together: list files with `captions=True`, and give `text=`")


@dataclass(frozen=True)
class _Layout:
    """Which samples and files each shard has.

    Attributes:
        entries: the entries, in order.
        variants: samples of each.
        each: samples of a shard.
    """

    entries: Sequence[Entry]
    variants: int
    each: int
    _digests: dict[int, str] = field(default_factory=dict, repr=False)

    @property
    def count(self) -> int:
        """Number of shards."""
        return -(-len(self.entries) * self.variants // self.each)

    def samples(self, n: int) -> range:
        """The samples of a shard; none of one that there isn't."""
        return range(n * self.each, min((n + 1) * self.each, len(self.entries) * self.variants))

    def made_of(self, n: int) -> Sequence[Entry]:
        """The files of a shard."""
        samples = self.samples(n)
        return self.entries[samples.start // self.variants : -(-samples.stop // self.variants)]

    def digest(self, n: int) -> str:
        """Digest of a shard's files, computed once."""
        if n not in self._digests:
            self._digests[n] = shard_writer.digest(self.made_of(n))
        return self._digests[n]

    def task(self, index: int) -> Task:
        """What is to be decoded for a sample."""
        entry, variant = divmod(index, self.variants)
        return index, self.entries[entry], variant


def _stale(shards: Iterable[shard_writer.ShardRecord], layout: _Layout) -> list[shard_writer.ShardRecord]:
    """Shards that are made of other files than they would be now."""
    return [shard for shard in shards if shard.made_of != layout.digest(shard.number)]


def _current(
    out: Path, plan: dict[str, Any], layout: _Layout, listing: Listing, options: EncodeOptions
) -> dict[int, shard_writer.ShardRecord]:
    """The finished shards, made of the files as they are now; those of this job that aren't are removed.

    Raises:
        UserError: some aren't, and they are not to be made again.
    """
    finished = shard_writer.finished_shards(out)
    stale = _stale(finished.values(), layout)
    if stale and not options.changed:
        whole = parsed((out / DATASET).read_text(encoding="utf-8")).get("finished", False)
        differ = shard_writer.changed_files(out, list(finished.values()), layout.entries, whole)
        raise UserError(
            f"{len(stale)} of the shards in {out} were made from files that have changed since: {differ}; make those "
            "shards again with `changed=True`, restore the files, or choose another folder"
        )
    if stale:
        mine = [shard for shard in stale if shard.number % options.shards == options.shard]
        shard_writer.drop(out, plan, listing.class_names, mine)
    return {n: finished[n] for n in finished.keys() - {shard.number for shard in stale}}


def _timed(stream: Iterator[DecodedSample], stats: EncodingStats) -> DecodedSample:
    before = time.perf_counter()
    sample = next(stream)
    stats.decoding += time.perf_counter() - before
    return sample


class _Rejects:
    """Counts what can't be encoded; lists it and stops when it is more than the share that is allowed.

    What was rejected when files were listed is judged against all of them, the rest against this job's samples.
    """

    def __init__(
        self, out: Path, share: float, listing: Listing, done: list[shard_writer.ShardRecord], stats: EncodingStats
    ) -> None:
        self.out = out
        self.stats = stats
        self.listed = listing.rejects
        self.found: list[Reject] = []
        self._check(listing.rejects, share * (len(listing.entries) + listing.lost))
        self.found = [reject for shard in done for reject in shard.rejects]
        self.allowed = share * stats.total
        self._check(self.found, self.allowed)

    def add(self, reject: Reject) -> None:
        """One more, found by this run."""
        self.found.append(reject)
        self.stats.rejected += 1
        self.stats.done += 1
        self._check(self.found, self.allowed)

    def _check(self, rejects: list[Reject], allowed: float) -> None:
        lost = sum(reject.lost for reject in rejects)
        if lost <= allowed:
            return
        shard_writer.list_rejects(self.out, [*self.listed, *self.found])
        last = rejects[-1]
        raise UserError(
            f"{lost} samples can't be encoded, more than `max_rejects=` allows ({allowed:.0f}); the last: "
            f"{last.name} ({last.reason}). All are listed in {self.out / shard_writer.REJECTS}, and what is done "
            "stays; repair them, or allow more"
        )


@dataclass(frozen=True)
class _Networks:
    """What makes a sample's arrays."""

    autoencoder: Autoencoder
    text: TextEncoder | None

    def arrays(self, samples: Sequence[DecodedSample]) -> dict[str, np.ndarray[Any, Any]]:
        """Latents, and the conditions that there are, as they are stored (b, …)."""
        pixels = np.stack([sample.pixels for sample in samples if sample.pixels is not None])
        found = {"latent": encode_pixels(self.autoencoder, torch.from_numpy(pixels))}
        if partners := [sample.partner for sample in samples if sample.partner is not None]:
            encoded = encode_pixels(self.autoencoder, torch.from_numpy(np.stack(partners)))
            found["image"] = np.split(encoded, 2, axis=1)[0] if self.autoencoder.posterior else encoded
        if self.text is not None:
            tokens, mask = self.text.encode([sample.caption or "" for sample in samples])
            found["tokens"] = tokens.to(torch.float16 if tokens.is_floating_point() else torch.int32).numpy()
            found["mask"] = mask.numpy()
        return found

    def problem(self, caption: str | None) -> str:
        """Why a caption can't be encoded; empty if it can, or there is none."""
        return "" if self.text is None or caption is None else self.text.problem(caption)


class _Encoder:
    """Batches decoded samples through the networks into a shard."""

    def __init__(
        self,
        networks: _Networks,
        task: Callable[[int], Task],
        writer: shard_writer.ShardWriter,
        batch_size: int,
        stats: EncodingStats,
        watch: Watch,
        rejects: _Rejects,
    ) -> None:
        self.rejects = rejects
        self.networks = networks
        self.task = task
        self.writer = writer
        self.batch_size = batch_size
        self.stats = stats
        self.watch = watch
        self.waiting: list[DecodedSample] = []

    def add(self, sample: DecodedSample) -> None:
        if sample.pixels is None:
            self._reject(sample, sample.record["reason"], sample.record["lost"])
            return
        if wrong := self.networks.problem(sample.caption):
            self._reject(sample, f"its caption: {wrong}")
            return
        self.waiting.append(sample)
        if len(self.waiting) == self.batch_size:
            self.flush()

    def flush(self) -> None:
        if not self.waiting:
            return
        before = time.perf_counter()
        arrays = self.networks.arrays(self.waiting)
        self.stats.encoding += time.perf_counter() - before
        for row, sample in enumerate(self.waiting):
            own = {name: array[row] for name, array in arrays.items()}
            strange = next((name for name, array in own.items() if not np.isfinite(array).all()), None)
            if strange is not None:
                what = "text encoder" if strange == "tokens" else "autoencoder"
                self._reject(sample, f"the {what}'s output is not finite in half precision")
                continue
            _, entry, _ = self.task(sample.index)
            self.writer.add(sample.index, own.pop("latent"), entry.label, sample.record, own, sample.caption)
            self.stats.encoded += 1
            self.stats.done += 1
        self.waiting = []
        self.watch(self.stats)

    def _reject(self, sample: DecodedSample, reason: str, lost: int = 1) -> None:
        reject = Reject(str(sample.record["source"]), reason, lost)
        self.writer.reject(reject)
        self.rejects.add(reject)


def encode_pixels(autoencoder: Autoencoder, pixels: Tensor) -> np.ndarray[Any, np.dtype[np.float16]]:
    """8-bit pixels (b, h, w, 3) or (b, f, h, w, 3) → what `encode` gives, as float16."""
    channels_first = pixels.movedim(-1, 1)
    with torch.inference_mode():
        encoded = autoencoder.encode(to_unit(channels_first))
    array: np.ndarray[Any, np.dtype[np.float16]] = encoded.to(torch.float16).cpu().numpy()
    return array
