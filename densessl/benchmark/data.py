"""Making views of pictures: ours, photometrics in the workers or on the device, and a plain PIL pipeline's."""

from __future__ import annotations

import gc
import io
import random
from collections.abc import Callable
from statistics import median
from time import process_time
from typing import Any

import numpy as np
import torch
import torchvision.transforms.v2 as T
from PIL import Image, ImageFilter
from torch.utils.data import default_collate

from densessl.benchmark.clock import seconds
from densessl.benchmark.report import table
from densessl.config import Config
from densessl.data.crops import RATIO, take_view, view_affine
from densessl.data.decoding import decode
from densessl.data.loader import Loader
from densessl.data.multi_crop import MultiCrop, view_rng
from densessl.data.pictures import StoredPictures, open_pictures
from densessl.data.pixels import Pixels
from densessl.data.to_device import ToDevice
from densessl.data.worker import prepare
from densessl.device import find_device
from densessl.errors import UserError

BATCH = 8  # pictures that are made between two looks at the clock


class PIL:
    """The views of ``cfg`` by Pillow and torchvision alone, as the papers' code makes them: floats, normalised."""

    def __init__(self, cfg: Config) -> None:
        normal = [T.ToImage(), T.ToDtype(torch.float32, scale=True), T.Normalize(cfg.data.mean, cfg.data.std)]
        self.views = []
        for group in (cfg.views.large, cfg.views.small):
            crop = T.RandomResizedCrop(group.size, group.scale, RATIO, T.InterpolationMode.BICUBIC)
            for number in range(group.count):
                changes = [crop, T.RandomHorizontalFlip(cfg.views.flip), *_photometric(cfg, number % 2), *normal]
                self.views.append(T.Compose(changes))

    def __call__(self, data: bytes) -> list[torch.Tensor]:
        picture = Image.open(io.BytesIO(data)).convert("RGB")
        return [view(picture) for view in self.views]


def _photometric(cfg: Config, odd: int) -> list[Any]:
    colour = cfg.photometric
    blur = T.Lambda(lambda x: x.filter(ImageFilter.GaussianBlur(random.uniform(*colour.blur_sigma))))
    return [
        T.RandomApply([T.ColorJitter(*colour.jitter)], colour.jitter_p),
        T.RandomGrayscale(colour.grey_p),
        T.RandomApply([blur], colour.blur_p[odd]),
        T.RandomSolarize(128, colour.solarize_p[odd]),
    ]


def measure(cfg: Config, device: str, *, repeats: int) -> dict[str, Any]:
    """Milliseconds of one core a picture, medians of ``repeats`` rounds over up to 100 pictures; each batch of them is
    made by all in turns. Raises UserError for pictures without files and for other than RGB of 8 bits.
    """
    place = find_device(device)
    pictures = open_pictures(cfg.data.path, Pixels.of(cfg))
    if not isinstance(pictures, StoredPictures) or pictures.pixels.channels != 3 or pictures.pixels.scaled:
        raise UserError(f"data.path={cfg.data.path}: RGB pictures of 8 bits in files are needed, to compare with PIL")
    prepare()
    rows = np.arange(min(100, len(pictures)) // BATCH * BATCH).reshape(-1, BATCH)
    pil = PIL(cfg)
    ours = {where: _batches(cfg, pictures, where) for where in ("workers", "device")}
    calls: dict[str, Callable[[np.ndarray], Any]] = {
        "pil": lambda batch: default_collate([pil(pictures.source.stored(int(i))) for i in batch]),
        "workers": lambda batch: ours["workers"][0, batch],
        "device": lambda batch: ours["device"][0, batch],
        **_parts(cfg, pictures),
    }
    rounds = [_round(calls, rows) for _ in range(repeats + 1)][1:]  # the first one warms up
    gc.unfreeze()
    ms = {name: median(found[name] for found in rounds) for name in calls}
    figures: dict[str, Any] = {"ms": ms, "all_ms": rounds, "pictures": rows.size}
    figures["faster"] = {name: ms["pil"] / ms[name] for name in ours}
    figures["decoding"] = {name: ms["decode"] / ms[name] for name in ours}
    figures["to_device"] = _to_device(cfg, ours["device"][0, rows.ravel()].views, place)
    return figures


def _batches(cfg: Config, pictures: StoredPictures, where: str) -> Any:
    photometric = cfg.photometric.model_copy(update={"where": where})
    loader = Loader(pictures, cfg.views, photometric, batch=len(pictures), seed=cfg.seed, workers=0)
    return loader.batches


def _parts(cfg: Config, pictures: StoredPictures) -> dict[str, Callable[[np.ndarray], Any]]:
    """Ours, one after the other, each with what comes before it ready."""
    crops = MultiCrop(cfg.views, cfg.photometric.model_copy(update={"where": "workers"}), cfg.seed).crops
    decoded: dict[int, np.ndarray] = {}
    cut: dict[int, list[np.ndarray]] = {}

    def decoding(batch: np.ndarray) -> None:
        for i in batch.tolist():
            decoded[i] = decode(pictures.source.stored(i), "", pictures.pixels)

    def cropping(batch: np.ndarray) -> None:
        for i in batch.tolist():
            height, width = decoded[i].shape[:2]
            rng = view_rng(cfg.seed, 0, i)
            affines = [view_affine(rng, cfg.views, height, width, scale) for _, scale, _ in crops]
            cut[i] = [take_view(decoded[i], x, size) for x, (size, *_) in zip(affines, crops, strict=True)]

    def photometric(batch: np.ndarray) -> None:
        rng = np.random.default_rng(0)
        for i in batch.tolist():
            for image, (*_, change) in zip(cut.pop(i), crops, strict=True):
                change(image, rng)
            del decoded[i]

    return {"decode": decoding, "crops": cropping, "photometric": photometric}


def _round(calls: dict[str, Callable[[np.ndarray], Any]], rows: np.ndarray) -> dict[str, float]:
    spent = dict.fromkeys(calls, 0.0)
    for batch in rows:
        for name, call in calls.items():
            began = process_time()
            call(batch)
            spent[name] += process_time() - began
    return {name: 1000 * total / rows.size for name, total in spent.items()}


def _to_device(cfg: Config, views: Any, place: torch.device) -> dict[str, float] | None:
    """Milliseconds a picture that a GPU takes to do the rest for a batch; None on a CPU."""
    if place.type != "cuda":
        return None
    to_device = ToDevice(place, cfg.data.mean, cfg.data.std)
    seconds(lambda: to_device(views), place, 3)
    spent = seconds(lambda: to_device(views), place, 20)
    return {"ms": 1000 * spent / len(views.pictures), "pictures_per_s": len(views.pictures) / spent}


def tables(figures: dict[str, Any]) -> str:
    ms, names = figures["ms"], {"pil": "PIL and torchvision", "workers": "ours, all in the worker"}
    names["device"] = "ours, photometrics on the device"
    rows = [
        [names[name], ms[name], ms["pil"] / ms[name], figures["decoding"].get(name)]
        for name in ("pil", "workers", "device")
    ]
    text = table(["of a worker, one core", "ms a picture", "times faster", "share of decoding"], rows)
    parts = [[name, ms[name]] for name in ("decode", "crops", "photometric")]
    text += "\n" + table(["part of ours", "ms a picture"], parts)
    if rest := figures["to_device"]:
        text += "\n" + table(["the rest on the device", "ms a picture", "pictures/s"], [["views", *rest.values()]])
    return text
