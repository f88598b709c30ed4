"""Captions and pairs: beside pictures, in folders, zips, tars and shards; text encoders; sizes (h, w); transparency."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from alphaflow.data_tools.decode import ImageTransform
from alphaflow.data_tools.encode import encode
from alphaflow.data_tools.plan import EncodeOptions
from alphaflow.data_tools.preview import preview
from alphaflow.data_tools.verify import verify
from PIL import Image

import alphaflow as af
from alphaflow.autoencoders.autoencoder import Normalisation
from alphaflow.data.decoding.images import centre_crop, crop, decode
from alphaflow.data.decoding.sizes import Size
from alphaflow.data.listing.listing import list_files
from alphaflow.describe import describe, rebuild
from alphaflow.pixel_values import to_bytes
from alphaflow.runs.composed import composed_dataset
from alphaflow.runs.folder import RunFolder
from alphaflow.text.text_encoders import TEXT_ENCODERS


class Moments(af.Autoencoder):
    """A posterior of half the size, whose mean and deviation are easy to compute, with a normalisation of its own."""

    posterior = True
    normalisation = Normalisation((0.5, 0.25, 0.0), (2.0, 1.0, 3.0))

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        mean = torch.nn.functional.avg_pool2d(pixels, 2)
        return torch.cat([mean, 0.1 + mean.abs()], dim=1)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return self.normalisation.inverse(latents).repeat_interleave(2, -1).repeat_interleave(2, -2).clamp(-1, 1)

    def latent_shape(self, size: Size, frames: int | None = None) -> tuple[int, ...]:
        raise NotImplementedError


NUMBER = 14


def caption(i: int) -> str:
    return f"picture {i} is grün" + "!" * (i % 5)


def picture(i: int, name: str) -> bytes:
    array = np.random.default_rng([i, len(name)]).integers(0, 256, (20 + i % 3, 24, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, name)
    return stream.getvalue()


def members(count: int = NUMBER) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Files of pictures with captions, and of their partners: names with dots in two classes."""
    captioned, partners = {}, {}
    for i in range(count):
        name = f"{'ab'[i % 2]}/shot.{i:02d}"
        captioned[f"{name}.png"], captioned[f"{name}.txt"] = picture(i, "png"), caption(i).encode()
        partners[f"{name}.bmp"] = picture(i, "bmp")
    return captioned, partners


def folder(place: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(data)
    return place


def zipped(file: Path, files: dict[str, bytes], top: str = "") -> Path:
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in files.items():
            archive.writestr(top + name, data)
    return file


def tarred(file: Path, files: dict[str, bytes]) -> Path:
    """A tar by webdataset's rule, whose keys have no dots."""
    with tarfile.open(file, "w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name.replace("shot.", "shot"))
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return folder(tmp_path / "source", members()[0])


@pytest.fixture
def other(tmp_path: Path) -> Path:
    return folder(tmp_path / "other", members()[1])


def small(source: Path, out: Path, pairs: Path | None = None, text: Any = None, **options: Any) -> Any:
    settings: dict[str, Any] = {"samples_per_shard": 4, "batch_size": 3, "workers": 0, "max_rejects": 0.0, **options}
    variants, autoencoder = settings.pop("variants", 1), settings.pop("autoencoder", af.Pixels())
    transform = ImageTransform(settings.pop("size", (8, 12)), "adm", variants)
    listing = list_files(source, "images", captions=text is not None, pairs=pairs).mixed()
    return encode(listing, out, autoencoder, transform, EncodeOptions(**settings), text=text)


def digests(out: Path) -> dict[str, str]:
    files = [*out.glob("*.tar"), out / "index.npy", out / "dataset.json"]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def of_name(name: str) -> int:
    """The number of a picture, by its name."""
    return int(name[-6:-4])


def cropped(i: int, kind: str, size: Size = (8, 12)) -> torch.Tensor:
    """Picture i, or its partner, as pixels in [-1, 1]: independently of any dataset."""
    image = centre_crop(decode(picture(i, kind)), size)
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 127.5 - 1


# Text encoders


def test_bytes_are_tokens() -> None:
    text = "ein grüner Ball ⚽"
    encoder = af.ByteText(length=32)
    tokens, mask = encoder.encode([text, "a"])
    data = text.encode()
    assert tokens.shape == mask.shape == (2, 32)
    assert (tokens.dtype, mask.dtype) == (torch.int64, torch.bool)
    assert bytes(tokens[0][mask[0]].tolist()) == data
    assert mask.sum(1).tolist() == [len(data), 1]
    assert not tokens[~mask].any()
    assert (encoder.vocabulary, encoder.width, encoder.count(text)) == (256, None, len(data))
    assert rebuild(json.loads(json.dumps(describe(encoder))), TEXT_ENCODERS) == encoder
    assert af.ByteText(len(data)).encode([text]).mask.all()
    for wrong, message in (
        (text, f"takes {len(data)} tokens, and 5 are the most"),
        ("", "it is empty"),
        ("\n", "empty"),
    ):
        with pytest.raises(af.UserError, match=message):
            af.ByteText(5).encode(["ok", wrong])
    for length in (0, 1.5, True):
        with pytest.raises(af.UserError, match="at least one token"):
            af.ByteText(length)  # type: ignore[arg-type]


WORDS = ["<pad>", "</s>", "[UNK]", "[CLS]", "a", "seven", "red", "the", "number", "after"]


def saved(place: Path, kind: str) -> Path:
    """A tiny text encoder of transformers with random weights and a tokenizer of ten words."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    torch.manual_seed(1)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A </s>", special_tokens=[("[CLS]", 3), ("</s>", 1)]
    )
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="[UNK]")
    fast.save_pretrained(place)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    if kind == "bert":
        config = transformers.BertConfig(vocab_size=10, max_position_embeddings=12, **sizes)
        transformers.BertModel(config).save_pretrained(place)
    elif kind == "t5":
        config = transformers.T5Config(vocab_size=10, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
        transformers.T5ForConditionalGeneration(config).save_pretrained(place)
    else:
        text = {"vocab_size": 10, "max_position_embeddings": 12, "eos_token_id": 1, "bos_token_id": 3, **sizes}
        vision = {"image_size": 8, "patch_size": 4, **sizes}
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
        transformers.CLIPModel(config).save_pretrained(place)
    return place


@pytest.mark.parametrize(
    ("kind", "network"), [("bert", "BertModel"), ("t5", "T5EncoderModel"), ("clip", "CLIPTextModel")]
)
def test_any_text_encoder_of_transformers(kind: str, network: str, tmp_path: Path) -> None:
    """Of whole models the texts' part; equal to calling transformers, one text at a time and without padding."""
    transformers = pytest.importorskip("transformers")
    place = saved(tmp_path / kind, kind)
    encoder = af.TransformersText(str(place), length=8, device="cpu")
    tokens, mask = encoder.encode(["a red seven", "the number after a seven"])
    assert (tokens.dtype, mask.dtype, encoder.width, encoder.vocabulary) == (torch.float32, torch.bool, 16, None)
    assert mask.sum(1).tolist() == [5, 7]
    direct = getattr(transformers, network).from_pretrained(place).eval()
    for row, ids in enumerate(([3, 4, 6, 5, 1], [3, 7, 8, 9, 4, 5, 1])):
        with torch.no_grad():
            expected = direct(input_ids=torch.tensor([ids])).last_hidden_state[0]
        found = tokens[row][mask[row]]
        assert (found - expected).norm() / expected.norm() < 1e-5
    assert encoder.count("a " * 20) == 22
    with pytest.raises(af.UserError, match="takes 22 tokens, and 8 are the most"):
        encoder.encode(["a " * 20])
    again = rebuild(json.loads(json.dumps(describe(encoder))), TEXT_ENCODERS)
    assert torch.equal(again.encode(["a red seven"]).tokens, encoder.encode(["a red seven"]).tokens)


def test_text_encoders_that_can_not_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(af.UserError, match="takes texts of 12 tokens at most, got `length=77`"):
        af.TransformersText(str(saved(tmp_path / "bert", "bert")), device="cpu").encode(["a"])
    (tmp_path / "empty").mkdir()
    for name, message in (
        (str(tmp_path / "empty"), "can't load the text encoder"),
        (str(tmp_path / "none"), "no such folder"),
    ):
        with pytest.raises(af.UserError, match=message) as caught:
            af.TransformersText(name, device="cpu").encode(["a"])
        assert "\n" not in str(caught.value)
    whole = (tmp_path / "bert" / "model.safetensors").read_bytes()
    (tmp_path / "bert" / "model.safetensors").write_bytes(whole[:100])
    with pytest.raises(af.UserError, match="can't load the text encoder"):
        af.TransformersText(str(tmp_path / "bert"), length=8, device="cpu").encode(["a"])
    (tmp_path / "bert" / "model.safetensors").unlink()
    torch.save({}, tmp_path / "bert" / "pytorch_model.bin")  # a pickle
    with pytest.raises(af.UserError, match="can't load the text encoder"):
        af.TransformersText(str(tmp_path / "bert"), length=8, device="cpu").encode(["a"])
    strange = saved(tmp_path / "strange", "bert")
    config = json.loads((strange / "config.json").read_text())
    names = {"AutoConfig": "own.Config", "AutoModel": "own.Model", "AutoModelForTextEncoding": "own.Model"}
    (strange / "config.json").write_text(json.dumps({**config, "model_type": "own", "auto_map": names}))
    (strange / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(af.UserError, match="can't load the text encoder"):
        af.TransformersText(str(strange), length=8, device="cpu").encode(["a"])
    assert not (tmp_path / "ran").exists()
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(af.UserError, match=r"the text encoder no/such isn't cached, and 127.0.0.1 can't be reached"):
        af.TransformersText("no/such").encode(["a"])


# Listings and ImageFolder


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_captions_and_pairs_wherever_they_lie(kind: str, tmp_path: Path) -> None:
    captioned, partners = members()
    captioned["a/notes.txt"] = b"of no picture"
    if kind == "folder":
        places = folder(tmp_path / "x", captioned), folder(tmp_path / "y", partners)
    elif kind == "zip":  # each with a folder of its own at the top
        places = zipped(tmp_path / "x.zip", captioned, "x/"), zipped(tmp_path / "y.zip", partners, "low/res/")
    else:
        places = tarred(tmp_path / "x.tar", captioned), tarred(tmp_path / "y.tar", partners)
    data = af.ImageFolder(places[0], size=(8, 12), captions=af.ByteText(40), pairs=places[1], batch_size=4)
    assert (data.shape, data.class_names, len(data)) == ((3, 8, 12), ["a", "b"], NUMBER)
    assert data.text_encoder == af.ByteText(40)
    assert data.listing.passed[".txt"] == 1
    assert "each with a caption; each with its pair" in data.listing.summary()
    batch = data.all()
    assert set(batch.cond.tensors) == {"labels", "tokens", "mask", "image"}
    for row, entry in enumerate(data.listing.entries):
        i = of_name(entry.name)
        assert torch.equal(batch.x[row], cropped(i, "png"))
        assert torch.equal(batch.cond.image[row], cropped(i, "bmp"))
        assert bytes(batch.cond.tokens[row][batch.cond.mask[row]].tolist()).decode() == caption(i)
        assert batch.cond.labels is not None
        assert batch.cond.labels[row] == i % 2
    lazy = af.ImageFolder(places[0], size=(8, 12), captions=af.ByteText(40), pairs=places[1], memory=0)
    assert torch.equal(lazy.all().cond.image, batch.cond.image)
    assert "pairs=" in repr(lazy)
    assert "captions=ByteText(length=40)" in repr(lazy)


def test_a_picture_and_its_partner_are_mirrored_together(source: Path, other: Path) -> None:
    data = af.ImageFolder(source, size=8, pairs=other, flip=True, batch_size=7, seed=3)
    plain, mirrored = af.ImageFolder(source, size=8, pairs=other).all(), 0
    stream = iter(data)
    for _ in range(4):
        batch = next(stream)
        for x, image in zip(batch.x, batch.cond.image, strict=True):
            flipped = not any(torch.equal(x, each) for each in plain.x)
            mirrored += flipped
            row = next(i for i, each in enumerate(plain.x) if torch.equal(x.flip(-1) if flipped else x, each))
            assert torch.equal(image.flip(-1) if flipped else image, plain.cond.image[row])
    assert 5 < mirrored < 23


def test_missing_captions_and_partners(source: Path, other: Path, tmp_path: Path) -> None:
    """One line with their number and the first's name; while encoding, rejects that are counted."""
    (source / "a" / "shot.02.txt").unlink()
    (source / "b" / "shot.05.txt").unlink()
    with pytest.raises(af.UserError, match=r"shot.02.png: no caption beside it, shot.02.txt \(and 1 more like it\)"):
        af.ImageFolder(source, size=8, captions=af.ByteText())
    with pytest.raises(af.UserError, match=r"2 samples can't be encoded, more than `max_rejects=` allows \(0\)"):
        small(source, tmp_path / "out", text=af.ByteText())
    done = small(source, tmp_path / "out", text=af.ByteText(), max_rejects=0.2)
    assert done.encoded == NUMBER - 2
    lines = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    assert {line["name"] for line in lines} == {"a/shot.02.png", "b/shot.05.png"}
    assert verify(tmp_path / "out").problems == []
    with pytest.raises(af.UserError, match=r"none of the 14 pictures in .* has a caption; expected a/shot.00.txt for"):
        af.ImageFolder(other, size=8, captions=af.ByteText())

    (other / "a" / "shot.04.bmp").unlink()
    with pytest.raises(af.UserError, match=r"a/shot.04.png: no partner in .*other; repair or remove it"):
        af.ImageFolder(source, size=8, pairs=other)
    (other / "b" / "shot.01.png").write_bytes(picture(1, "png"))
    (source / "b" / "shot.03.jpg").write_bytes(picture(1, "png"))
    listing = list_files(source, "images", pairs=other)
    reasons = {reject.name: reject.reason for reject in listing.rejects}
    assert reasons == {
        "a/shot.04.png": f"no partner in {other}",
        "b/shot.01.png": f"two partners in {other}, b/shot.01.bmp and b/shot.01.png",
        "b/shot.03.png": "its partner is b/shot.03.jpg's",
    }
    with pytest.raises(
        af.UserError, match=r"none of the 15 pictures in .* has one partner of its name, with any ending"
    ):
        af.ImageFolder(source, size=8, pairs=folder(tmp_path / "else", {"x/1.png": picture(1, "png")}))
    with pytest.raises(af.UserError, match="doesn't exist"):
        af.ImageFolder(source, size=8, pairs=tmp_path / "nowhere")
    with pytest.raises(af.UserError, match="holds no images"):
        af.ImageFolder(source, size=8, pairs=folder(tmp_path / "texts", {"x/1.txt": b"x"}))


def gigabyte(file: Path) -> None:
    with file.open("wb") as stream:
        stream.truncate(2**30)  # sparse


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda file: file.write_bytes("grün".encode("latin-1")), "it isn't UTF-8"),
        (gigabyte, "more than 65,536 bytes, which is no caption"),
        (lambda file: file.write_bytes(b""), "it is empty"),
        (lambda file: file.write_bytes(b"\xef\xbb\xbf \r\n\t"), "it is empty"),
        (lambda file: file.write_text("x" * 65), "it takes 65 tokens, and 64 are the most"),
    ],
)
def test_bad_captions(spoil: Callable[[Path], Any], message: str, source: Path, tmp_path: Path) -> None:
    """An error by the file's name in training; while encoding, a reject."""
    spoil(source / "b" / "shot.03.txt")
    with pytest.raises(af.UserError, match=rf"the caption .*b/shot.03.txt.*{message}") as caught:
        af.ImageFolder(source, size=8, captions=af.ByteText())
    assert "\n" not in str(caught.value)
    assert small(source, tmp_path / "out", text=af.ByteText(), max_rejects=0.1).rejected == 1
    line = json.loads((tmp_path / "out" / "rejects.jsonl").read_text())
    assert line["name"] == "b/shot.03.png"
    assert message in line["reason"]
    assert "its caption" in line["reason"]
    assert len(af.LatentShards(tmp_path / "out")) == NUMBER - 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_a_pipe_is_no_caption(source: Path) -> None:
    (source / "a" / "shot.02.txt").unlink()
    os.mkfifo(source / "a" / "shot.02.txt")
    with pytest.raises(af.UserError, match=r"shot.02.png: no caption beside it"):
        af.ImageFolder(source, size=8, captions=af.ByteText())


def test_a_damaged_partner(source: Path, other: Path, tmp_path: Path) -> None:
    (other / "b" / "shot.03.bmp").write_bytes(b"BM" + bytes(100))
    with pytest.raises(af.UserError, match=r"can't read the image .*other/b/shot.03.bmp"):
        af.ImageFolder(source, size=8, pairs=other)
    assert small(source, tmp_path / "out", other, max_rejects=0.1).rejected == 1
    line = json.loads((tmp_path / "out" / "rejects.jsonl").read_text())
    assert line["name"] == "b/shot.03.png"
    assert line["reason"].startswith("its partner b/shot.03.bmp: ")
    Image.new("RGB", (9, 9)).save(other / "b" / "shot.03.bmp")
    for file in source.rglob("*.png"):
        Image.new("RGB", (8, 8)).save(file)
    with pytest.raises(af.UserError, match=r"other/.* pixels, but a/shot.00.png is 8×8; give a size"):
        af.ImageFolder(source, pairs=other)


def test_a_run_composed_in_python_finds_its_captions_and_pairs_again(source: Path, other: Path, tmp_path: Path) -> None:
    text = af.ByteText(40)
    data = af.ImageFolder(source, size=(8, 12), captions=text, pairs=other, batch_size=4)
    network = af.DiT(
        data.shape, patch=4, depth=1, width=16, heads=2, classes=2,
        tokens=text.width, vocabulary=text.vocabulary, image=data.shape[0],
    )  # fmt: skip
    recipe = af.Recipe(model=network, objective=af.AlphaFlow(), dataset=data, steps=1, samplers=())
    af.Trainer(recipe, out=tmp_path / "run", device="cpu", display=None).fit()
    again = composed_dataset(RunFolder(tmp_path / "run"))
    assert again.text_encoder == text
    for name, tensor in data.all().cond.tensors.items():
        assert torch.equal(again.all().cond.tensors[name], tensor), name  # type: ignore[attr-defined]


# Shards


def test_shards_hold_captions_and_partners(source: Path, other: Path, tmp_path: Path) -> None:
    """As any WebDataset reader finds them, as they are computed independently, and the same streamed."""
    import webdataset

    out, text = tmp_path / "out", af.ByteText(33)  # an odd length: what follows stands at whole blocks all the same
    small(source, out, other, text, variants=2, autoencoder=Moments())
    record = json.loads((out / "dataset.json").read_text())
    assert record["text_encoder"] == {"type": "ByteText", "length": 33}
    assert record["conditions"] == {
        "image": {"shape": [3, 4, 6], "dtype": "<f2"},
        "mask": {"shape": [33], "dtype": "|b1"},
        "tokens": {"shape": [33], "dtype": "<i4", "vocabulary": 256},
    }
    assert record["plan"]["recipe"]["size"] == [8, 12]
    report = verify(out)
    assert (report.samples, report.problems) == (2 * NUMBER, [])
    shards = af.LatentShards(out, batch_size=5)
    assert shards.text_encoder == text
    assert shards.shape == (3, 4, 6)
    batch, normalisation = shards.all(), Moments.normalisation
    urls = sorted(str(file) for file in out.glob("*.tar"))
    keys = []
    for row, sample in enumerate(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False)):
        keys.append(sample["__key__"])
        about = json.loads(sample["json"])
        i = of_name(about["source"])
        assert about["pair"] == about["source"].replace("png", "bmp")
        assert sample["txt"].decode() == caption(i)
        image, pair = cropped(i, "png"), cropped(i, "bmp")
        if about["mirrored"]:
            image, pair = image.flip(-1), pair.flip(-1)
        mean = Moments().encode(pair[None])[:, :3].half()
        assert np.array_equal(np.load(io.BytesIO(sample["image.npy"])), mean[0].numpy())
        assert torch.allclose(batch.cond.image[row], normalisation.forward(mean.float())[0], atol=1e-6)
        own = Moments().encode(image[None])[:, :3].half()
        assert torch.allclose(batch.x[row], normalisation.forward(own.float())[0], atol=1e-6)
        tokens, mask = text.encode([caption(i)])
        assert torch.equal(batch.cond.tokens[row], tokens[0])
        assert torch.equal(batch.cond.mask[row], mask[0])
        assert batch.cond.labels is not None
        assert batch.cond.labels[row] == i % 2
    assert keys == [f"{i:09d}" for i in range(2 * NUMBER)]
    assert batch.cond.tokens.dtype == torch.int64
    streamed = af.RemoteShards(urls, out / "dataset.json", batch_size=2 * NUMBER)
    assert streamed.text_encoder == text
    found = next(iter(streamed))
    order = [int(torch.nonzero((batch.x == x).flatten(1).all(1))[0]) for x in found.x]
    assert sorted(order) == list(range(2 * NUMBER))
    for name, tensor in batch.cond.tensors.items():
        assert torch.equal(found.cond.tensors[name], tensor[order]), name
    record["conditions"]["tokens"]["shape"] = record["conditions"]["mask"]["shape"] = [34]
    (tmp_path / "other.json").write_text(json.dumps(record))
    with pytest.raises(af.UserError, match=r"bool \(33,\) where booleans \(34,\) are expected \(mask\)"):
        next(iter(af.RemoteShards(urls, tmp_path / "other.json", batch_size=4)))


def test_features_of_an_own_text_encoder(source: Path, tmp_path: Path) -> None:
    """Float16 (n, d) in shards, which know that the encoder is the user's own; not finite ones are rejects."""

    class Own(af.TextEncoder):
        length, width = 3, 2

        def count(self, text: str) -> int:
            return 2

        def tokens_of(self, texts: Any) -> Any:
            numbers = torch.tensor([float(len(text)) for text in texts])
            tokens = numbers[:, None, None] / torch.tensor([[1.0, 2.0], [4.0, 8.0], [5.0, 0.0]])[:, :]
            return tokens.nan_to_num(posinf=0.0), torch.tensor([[True, True, False]]).expand(len(texts), 3)

    small(source, tmp_path / "out", text=Own())
    shards = af.LatentShards(tmp_path / "out")
    assert shards.text_encoder is None
    batch = shards.all()
    assert (batch.cond.tokens.dtype, batch.cond.tokens.shape) == (torch.float32, (NUMBER, 3, 2))
    assert batch.cond.mask.tolist() == [[True, True, False]] * NUMBER
    texts = [caption(of_name(entry.name)) for entry in list_files(source, "images").mixed().entries]
    assert torch.equal(batch.cond.tokens, Own().encode(texts).tokens.half().float())

    class Wild(Own):
        def tokens_of(self, texts: Any) -> Any:
            tokens, mask = super().tokens_of(texts)
            return tokens * torch.tensor([1e9 if "picture 3" in text else 1.0 for text in texts])[:, None, None], mask

    assert small(source, tmp_path / "wild", text=Wild(), max_rejects=0.1).rejected == 1
    assert "the text encoder's output is not finite" in (tmp_path / "wild" / "rejects.jsonl").read_text()


def test_jobs_kills_and_other_settings(source: Path, other: Path, tmp_path: Path) -> None:
    """The same bytes by one job or three, with workers or none, or with shards that were lost between."""
    text = af.ByteText(40)
    small(source, tmp_path / "one", other, text)
    for shard in (2, 0, 1):
        small(source, tmp_path / "three", other, text, shard=shard, shards=3, workers=shard % 2)
    assert digests(tmp_path / "one") == digests(tmp_path / "three")
    (tmp_path / "three" / "train-000001.tar").unlink()
    (tmp_path / "three" / "parts" / "000002.json").unlink()
    assert small(source, tmp_path / "three", other, text).encoded == 8
    assert digests(tmp_path / "one") == digests(tmp_path / "three")
    for given, message in (
        ((None, text), "was started with pairs; use the same settings"),
        ((other, None), "was started with captions; use the same settings"),
        ((other, af.ByteText(41)), "was started with text encoder length 40, not 41"),
    ):
        with pytest.raises(af.UserError, match=message):
            small(source, tmp_path / "one", *given)
    with pytest.raises(af.UserError, match="captions and a text encoder go together"):
        encode(list_files(source, "images"), tmp_path / "x", af.Pixels(), ImageTransform(8), EncodeOptions(), text=text)

    (source / "a" / "shot.00.txt").write_text("another caption")
    (other / "b" / "shot.01.bmp").write_bytes(picture(99, "bmp"))
    with pytest.raises(af.UserError, match="files that have changed since: 2 replaced"):
        small(source, tmp_path / "one", other, text)
    small(source, tmp_path / "one", other, text, changed=True)
    tokens, mask = (af.LatentShards(tmp_path / "one").all().cond.tensors[name] for name in ("tokens", "mask"))
    texts = [bytes(row[there].tolist()) for row, there in zip(tokens, mask, strict=True)]
    assert texts.count(b"another caption") == 1


def test_verify_looks_at_conditions(source: Path, other: Path, tmp_path: Path) -> None:
    """What a hash can't tell, where shards were written so: arrays of other kinds, missing ones, wrong indices."""
    small(source, tmp_path / "out", other, af.ByteText(16 + 10), samples_per_shard=NUMBER)

    def spoilt(name: str, change: Callable[[str, bytes], bytes | None]) -> list[str]:
        place = tmp_path / name
        shutil.copytree(tmp_path / "out", place)
        file = place / "train-000000.tar"
        with tarfile.open(tmp_path / "out" / "train-000000.tar") as old, tarfile.open(file, "w") as new:
            for member in old:
                stream = old.extractfile(member)
                assert stream is not None
                data = stream.read()
                changed = change(member.name, data) if member.name.startswith("000000003.") else data
                if changed is not None:
                    member.size = len(changed)
                    new.addfile(member, io.BytesIO(changed))
        record = json.loads((place / "dataset.json").read_text())
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        record["shards"][0] |= {"bytes": file.stat().st_size, "sha256": digest}
        (place / "dataset.json").write_text(json.dumps(record))
        return [problem for problem in verify(place).problems if "000000003" in problem]

    def npy(array: Any) -> bytes:
        stream = io.BytesIO()
        np.save(stream, array)
        return stream.getvalue()

    assert spoilt("same", lambda name, data: data) == []
    for kind, array, message in (
        ("tokens", np.full(26, 256, np.int32), "tokens outside of the vocabulary"),
        ("tokens", np.zeros(25, np.int32), r"tokens is an array int32 (25,) instead of int32 (26,)"),
        ("image", np.full((3, 8, 12), np.nan, np.float16), "image has values that are not finite"),
        ("image", None, "image.npy is missing, or not at its place"),
        ("mask", np.ones(26, np.int32), "mask is an array int32 (26,) instead of bool (26,)"),
    ):
        data = None if array is None else npy(array)
        found = spoilt(f"{kind}{message[:9]}", lambda name, old, kind=kind, data=data: data if kind in name else old)
        assert len(found) == 1
        assert message in found[0], found
    assert "its caption isn't UTF-8" in spoilt("text", lambda name, data: b"\xff" if name.endswith("txt") else data)[0]
    with pytest.raises(af.UserError, match=r"is damaged: its sample at byte \d+ is not finite"):
        af.LatentShards(tmp_path / "imageimage has").all()
    place = tmp_path / "tokenstokens ou"
    with pytest.raises(af.UserError, match=r"is damaged: its sample at byte \d+ has tokens outside of the vocabulary"):
        af.LatentShards(place).all()
    with pytest.raises(af.UserError, match=r"sample 000000003 of .*tokens outside of the vocabulary"):
        list(itertools.islice(af.RemoteShards([str(place / "train-000000.tar")], place / "dataset.json"), 1))


def test_conditions_in_dataset_json_are_not_believed(source: Path, other: Path, tmp_path: Path) -> None:
    small(source, tmp_path / "out", other, af.ByteText(40))
    record = json.loads((tmp_path / "out" / "dataset.json").read_text())
    held = record["conditions"]
    for conditions in (
        [], {"tokens": 3}, {**held, "mask": {"shape": [39], "dtype": "|b1"}}, {"tokens": held["tokens"]},
        {"image": {"shape": [3, 8, 11], "dtype": "<f2"}}, {"image": {"shape": [3, 8, 12], "dtype": "|O"}},
        {**held, "other": held["mask"]}, {**held, "tokens": {"shape": [40, 10**8], "dtype": "<f2"}},
        {**held, "tokens": {"shape": [40, -1], "dtype": "<f2"}},
        {**held, "tokens": {**held["tokens"], "vocabulary": "x"}},
        {**held, "tokens": {"shape": [40, 1.5], "dtype": "<f2"}},
    ):  # fmt: skip
        (tmp_path / "out" / "dataset.json").write_text(json.dumps({**record, "conditions": conditions}))
        if conditions == []:  # none: the latents alone
            assert not set(af.LatentShards(tmp_path / "out").all().cond.tensors) - {"labels"}
            continue
        with pytest.raises(af.UserError, match=r"dataset\.json is damaged"):
            af.LatentShards(tmp_path / "out")
    wide = {**held, "tokens": {"shape": [40, 500], "dtype": "<f2"}}
    (tmp_path / "out" / "dataset.json").write_text(json.dumps({**record, "conditions": wide}))
    with pytest.raises(af.UserError, match="its samples lie outside of their shards, or in one another"):
        af.LatentShards(tmp_path / "out")
    (tmp_path / "out" / "dataset.json").write_text(json.dumps({**record, "text_encoder": {"type": "Pixels"}}))
    with pytest.raises(af.UserError, match="not one of ByteText, TransformersText"):
        _ = af.LatentShards(tmp_path / "out").text_encoder


# Sizes and channels


@pytest.mark.parametrize("size", [(8, 12), (30, 10), (7, 50), (16, 16)])
@pytest.mark.parametrize("given", [(60, 41), (33, 97), (10, 10), (200, 64)])
def test_crops_to_a_rectangle(size: tuple[int, int], given: tuple[int, int]) -> None:
    """Of this size, and the middle part; a picture that has the size stays; squares are those of one number."""
    noise = np.random.default_rng(0).integers(0, 256, (*given, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    height, width = size
    for how in ("adm", "centre", "resize"):
        found = crop(image, size, how)  # type: ignore[arg-type]
        assert found.size == (width, height)
        same = Image.fromarray(noise[:height, :width])
        if same.size == (width, height):
            assert np.array_equal(np.asarray(crop(same, size, how)), np.asarray(same))  # type: ignore[arg-type]
        if height == width:
            assert np.array_equal(np.asarray(found), np.asarray(crop(image, height, how)))  # type: ignore[arg-type]
    # what varies along one side only is cropped evenly: the middle stays the middle
    ramp = np.broadcast_to(np.linspace(0, 255, given[1])[None, :, None], (*given, 3)).round().astype(np.uint8)
    found = np.asarray(crop(Image.fromarray(ramp), size, "adm")).astype(float)
    assert abs(found.mean() - 127.5) < 4


def test_sizes_that_are_none(source: Path) -> None:
    for size in ((8, 0), (8, 8, 8), 0, (8.5, 8), True, "8"):
        with pytest.raises(af.UserError, match="image size"):
            af.ImageFolder(source, size=size)  # type: ignore[arg-type]
    assert af.Pixels().latent_shape((8, 12)) == (3, 8, 12)
    assert af.Pixels(1).latent_shape(8, 5) == (1, 5, 8, 8)
    assert af.Pixels(1).latent_shape((8, 12), 5) == (1, 5, 8, 12)


def test_clips_of_another_aspect(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), dtype=np.uint8)
    for i, frame in enumerate(noise):
        folder(tmp_path / "clips", {f"one/{i:04d}.png": b""})
        Image.fromarray(frame).save(tmp_path / "clips" / "one" / f"{i:04d}.png")
    data = af.VideoFolder(tmp_path / "clips", frames=3, size=(8, 16), fps=5.0, batch_size=1)
    assert data.shape == (3, 3, 8, 16)
    frames = to_bytes(data.all().x)[0].permute(1, 2, 3, 0).numpy()
    for found, frame in zip(frames, noise, strict=True):
        assert np.array_equal(found, np.asarray(centre_crop(Image.fromarray(frame), (8, 16))))
    with pytest.raises(af.UserError, match="the mode of clips is RGB or L, got RGBA"):
        af.VideoFolder(tmp_path / "clips", frames=3, size=8, fps=5.0, mode="RGBA")


def test_transparency_is_a_fourth_channel(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2, 8, 12, 4), dtype=np.uint8)
    (tmp_path / "x").mkdir()
    for i, array in enumerate(noise):
        Image.fromarray(array).save(tmp_path / "x" / f"{i}.png")
    Image.fromarray(noise[0][..., :3]).save(tmp_path / "x" / "2.png")
    Image.fromarray(noise[0][..., 0]).save(tmp_path / "x" / "3.png", transparency=int(noise[0, 0, 0, 0]))
    data = af.ImageFolder(tmp_path / "x", mode="RGBA")
    assert data.shape == (4, 8, 12)
    found = to_bytes(data.all().x).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(found[:2], noise)
    assert (found[2][..., 3] == 255).all()
    grey = noise[0][..., 0]
    assert np.array_equal(found[3][..., 3], np.where(grey == grey[0, 0], 0, 255))
    assert np.array_equal(found[3][..., 1], grey)
    x = data.all().x
    assert torch.equal(af.Pixels(4).decode(af.Pixels(4).encode(x)), x)
    assert af.ImageFolder(tmp_path / "x").shape == (3, 8, 12)  # over white, as before


# The command line


def test_the_command(cli: Callable[..., Any], source: Path, other: Path, tmp_path: Path) -> None:
    words = ["--autoencoder", "pixels", "--size", "8,12", "--workers", "0", "--captions", "--text-length", "30"]
    done = cli("encode", "images", source, tmp_path / "out", *words, "--pairs", other)
    assert done.status == 0, done.err
    assert "14 pictures in 2 classes (a, b); each with a caption; each with its pair" in done.out + done.err
    shards = af.LatentShards(tmp_path / "out")
    assert (shards.shape, shards.text_encoder) == ((3, 8, 12), af.ByteText(30))
    pixels, names = preview(tmp_path / "out", count=3)
    assert pixels.shape == (3, 3, 8, 12)
    assert set(names) <= {"a", "b"}


def test_wrong_commands(here: Callable[..., Any], source: Path, tmp_path: Path) -> None:
    call = ("encode", "images", source, tmp_path / "out", "--autoencoder", "pixels", "--workers", "0")
    for words, message in (
        (("--text-encoder", "bytes"), "--text-encoder goes with --captions"),
        (("--text-length", "9"), "--text-length goes with --captions"),
        (("--size", "0"), "--size takes a number of pixels, or height,width, for example 256 or 192,256; got '0'"),
        (("--size", "8,8,8"), "height,width"), (("--size", "x"), "--size takes whole numbers"),
        (("--captions", "--text-encoder", tmp_path / "none"), "no such folder"),
        (("--pairs", tmp_path / "none"), "doesn't exist"),
        (("--size", "8", "--captions", "--text-length", "3"), "its caption: it takes 20 tokens, and 3 are the most"),
    ):  # fmt: skip
        done = here(*call, *words)
        assert done.status == 2, (words, done)
        assert message in done.err, done.err
        assert len(done.err.strip().splitlines()) == 1, done.err
