"""Decoding against other libraries: every form of file, read in every way; and files that are broken in many."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import warnings
import zlib
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
from picture_forms import HEIGHT, WIDTH, Form, by_numpy, by_pillow, by_tifffile, forms, huge, said, surrounded, values

from densessl.data.decoding import Unreadable, decode, read
from densessl.data.pixels import Pixels

FORMS, SURROUNDED = forms(), surrounded()
SCALES = {"u1": (20, 200), "u2": (1000, 50_000), "u4": (1e9, 3e9), "i1": (-100, 90), "i2": (-20_000, 15_000)}
SCALES |= {"i4": (-1e9, 1e9), "i8": (-5e18, 5e18), "f2": (-5, 20), "f4": (-5, 20), "f8": (-5, 20)}
CHANNELS = (1, 2, 3, 4, 5, 16)


def wanted(form: Form) -> list[Pixels]:
    """All that a configuration may ask of a form."""
    low, high = SCALES[form.truth.dtype.str[1:]]
    found = []
    for channels in CHANNELS:
        own = tuple((low + i * (high - low) / 50, high - i * (high - low) / 60) for i in range(channels))
        found += [Pixels(channels), Pixels(channels, ((low, high),)), Pixels(channels, own)]
        found.append(Pixels(channels, percentiles=(1, 98)))
    return found


def expected(form: Form, pixels: Pixels) -> tuple[np.ndarray, float] | None:
    """(h, w, C) float64 of what is to be read, by the plainest formulas, and how many of its steps a stored one makes.

    None where it is to be refused.
    """
    truth, channels = form.truth, form.truth.shape[2]
    if pixels.channels != channels and form.alpha:
        truth, channels = truth[..., :-1], channels - 1
    if pixels.channels != channels and {pixels.channels, channels} != {1, 3}:
        return None
    if truth.dtype == np.uint16 and pixels == Pixels() and not form.array:
        truth = truth // 256
    elif truth.dtype != np.uint8 and not pixels.scaled:
        return None
    picture = truth.astype(np.float64)
    with np.errstate(invalid="ignore"):
        if channels == 3 and pixels.channels == 1:
            picture = picture @ np.array([[0.299], [0.587], [0.114]])
    picture = np.broadcast_to(picture, (*picture.shape[:2], pixels.channels))
    if not pixels.scaled:
        return picture, 1
    scaled, steps = np.zeros(picture.shape), 0
    for channel in range(pixels.channels):
        numbers = picture[..., channel]
        if pixels.percentiles:
            low, high = np.percentile(numbers[np.isfinite(numbers)], pixels.percentiles)
        else:
            low, high = pixels.range[channel % len(pixels.range)]
        if low == high:  # black, and what is above it white
            scaled[..., channel] = 65_535 * (numbers > low)
            continue
        scaled[..., channel] = np.nan_to_num((numbers.clip(low, high) - low) / (high - low)) * 65_535
        steps = max(steps, 65_535 / (high - low))
    return scaled, steps


@pytest.mark.parametrize("name", FORMS)
def test_every_form_in_every_way(name):
    form = FORMS[name]
    for pixels in wanted(form):
        truth = expected(form, pixels)
        if truth is None:
            with pytest.raises(Unreadable, match=r"backbone\.in_chans|data\.range") as caught:
                decode(form.data, "x", pixels)
            assert (f"backbone.in_chans={form.truth.shape[2] - form.alpha}" in caught.value.reason) == (
                "in_chans" in caught.value.reason
            )
            continue
        picture, steps = truth
        found = decode(form.data, "x", pixels)
        assert found.dtype == pixels.dtype
        assert found.shape == picture.shape
        assert found.flags.c_contiguous
        assert found.flags.writeable  # torch warns of others
        mixed = pixels.channels == 1 != form.truth.shape[2]  # to grey, by OpenCV's sums of whole numbers
        grey = {"uint8": 0.6, "uint16": 2.5}.get(form.truth.dtype.name, 0) * mixed
        allowed = (1 if pixels.scaled else 0) + (1 + bool(pixels.percentiles)) * steps * (form.off + grey)
        assert np.abs(found - picture).max() <= allowed


@pytest.mark.parametrize("dtype", ["int16", "uint16", "int32", "float32", "float64"])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_what_stands_for_nothing_is_treated_like_nan(dtype, channels):
    """Told by the key, by GDAL's tag, or both: by the plainest formulas, and as NaN in its place is."""
    fills = {"int16": [-9999, 32767], "uint16": [65535], "int32": [-(2**31)]}
    fills |= {"float32": [-9999, -3.4028234663852886e38], "float64": [-9999, 1e300]}
    numbers, rng = fills[dtype], np.random.default_rng(0)
    picture = rng.integers(200, 5000, (HEIGHT, WIDTH, channels)).astype(dtype)
    truth = picture.astype(np.result_type(dtype, np.float32))
    for number in numbers:
        places = rng.random(picture.shape) < 0.2
        picture[places], truth[places] = number, np.nan
    layout = {"photometric": "minisblack"} | ({"planarconfig": "contig"} if channels > 1 else {})
    stored, tag = picture if channels > 1 else picture[..., 0], (42113, 2, 0, f"{numbers[0]:.17g}", True)
    told = by_tifffile(stored, extratags=[tag], **layout)
    files = [(by_numpy(picture), numbers), (by_tifffile(stored, **layout), numbers), (told, numbers[1:])]
    ways = [Pixels(channels, ((300, 4000),)), Pixels(channels, percentiles=(2, 97))]
    for pixels in [*ways, Pixels(1, ((0, 5000),))] if channels == 3 else ways:
        exact, steps = expected(Form(b"", truth, array=True), pixels)
        like_nan = decode(by_numpy(truth), "x", pixels)
        for data, nodata in files:
            found = decode(data, "x", pixels._replace(nodata=tuple(nodata)))
            assert np.abs(found - exact).max() <= 1 + 0.01 * steps
            np.testing.assert_array_equal(found, like_nan)
    seen = decode(by_numpy(picture), "x", ways[0])  # which nobody told of anything
    assert (seen[picture == max(numbers)] == 65_535).all() == (max(numbers) > 4000)


def test_upright_is_asked_for():
    for name in ("JPEG turned", "PNG turned", "WEBP turned", "TIFF turned", "TIFF palette turned"):
        form = FORMS[name]
        assert decode(form.data, "x").shape == (WIDTH, HEIGHT, 3)
        lying = decode(form.data, "x", Pixels(upright=False))
        np.testing.assert_array_equal(np.rot90(lying, -1), decode(form.data, "x"))  # 6: turn it clockwise


@pytest.mark.parametrize(
    ("data", "pixels", "reason"),
    [
        (
            "TIFF uint16 x 5",
            Pixels(),
            "5 channels of uint16: backbone.in_chans=5 would read them, not 3, and data.range",
        ),
        ("TIFF uint8 x 5", Pixels(), "5 channels of uint8: backbone.in_chans=5 would read them, not 3"),
        ("TIFF float32 x 1", Pixels(), "1 channel of float32: data.range or data.percentiles has to say what is black"),
        ("npy uint16 x 3", Pixels(), "3 channels of uint16: data.range or data.percentiles has to say"),
        ("PNG RGBA", Pixels(2), "3 channels of uint8 and an alpha: backbone.in_chans=3 would read them, not 2"),
        ("TIFF RGB and infrared", Pixels(), "4 channels of uint16: backbone.in_chans=4 would"),
        (
            by_tifffile(np.zeros((2, 3, 4, 5), np.uint8), photometric="minisblack"),
            Pixels(),
            "a stack of other 2, other",
        ),
        (
            by_tifffile(np.zeros((7, 4, 5), np.uint8), imagej=True, metadata={"axes": "TYX"}),
            Pixels(7),
            "a stack of time 7, height 4, width 5; height, width and channels make a picture",
        ),
        (by_tifffile(np.zeros((4, 5, 4), np.uint16), photometric="separated"), Pixels(4), "SEPARATED"),
        (by_numpy(np.zeros((2, 3, 4, 5))), Pixels(), "an array (2, 3, 4, 5) of float64; numbers (h, w), "),
        (by_numpy(np.zeros((4, 5), complex)), Pixels(), "an array (4, 5) of complex128; numbers"),
        (by_numpy(np.zeros((0, 5, 3))), Pixels(), "0 x 5 x 3 pixels: nothing is in it"),
        (by_numpy(np.array([["a"] * 3] * 3, object)), Pixels(), "an array (3, 3) of object"),
        (b"%PDF-1.7 and so on", Pixels(), "not a picture: no JPEG, PNG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", Pixels(), "not a picture"),  # Pillow runs Ghostscript
        (b"", Pixels(), "empty file"),
    ],
)
def test_reasons_say_what_to_do(data, pixels, reason):
    with pytest.raises(Unreadable) as caught:
        decode(FORMS[data].data if isinstance(data, str) else data, "a.tif", pixels)
    assert reason in str(caught.value)
    assert str(caught.value).startswith("a.tif: ")


@pytest.mark.skipif(bool(find_spec("imagecodecs")), reason="imagecodecs is there")
def test_compression_that_needs_a_package_names_it():
    data = by_tifffile(values(1, "int16")[..., 0], photometric="minisblack")  # which isn't grey as Pillow has it
    for code, name in ((5, "LZW"), (7, "JPEG"), (34712, "JPEG2000"), (50000, "ZSTD")):
        with pytest.raises(Unreadable, match=rf"{name}.* needs imagecodecs: pip install 'densessl\[tiff\]'"):
            read(said(data, Compression=code), "x")


def test_what_the_package_reads():
    pytest.importorskip("imagecodecs")
    picture = values(5, "uint16")
    for compression in ("lzw", "zstd", "lzma"):
        data = by_tifffile(picture, photometric="minisblack", planarconfig="contig", compression=compression)
        np.testing.assert_array_equal(read(data, "x").picture, picture)


def read_or_refused(data: bytes, name: str) -> np.ndarray | None:
    """What is stored, if anything; and that nothing but a picture as promised, or Unreadable, comes of it."""
    for pixels in (Pixels(), Pixels(5, percentiles=(1, 99)), Pixels(1, ((0, 100),))):
        with suppress(Unreadable):
            picture = decode(data, name, pixels)
            assert picture.dtype == pixels.dtype
            assert picture.ndim == 3
            assert picture.shape[2] == pixels.channels
            assert picture.size
    try:
        return read(data, name).picture
    except Unreadable:
        return None


@pytest.mark.parametrize("name", FORMS)
def test_a_cut_file_is_refused_and_a_changed_one_raises_nothing_else(name, capfd):
    form, rng = FORMS[name], np.random.default_rng(zlib.crc32(name.encode()))
    whole = read(form.data, name).picture
    for end in np.linspace(0, len(form.data) - 1, 20).astype(int):
        picture = read_or_refused(form.data[:end], name)
        if picture is not None:  # what is missing is no part of the picture
            np.testing.assert_array_equal(picture, whole)
    for number in range(40):
        changed = bytearray(form.data)
        reach = len(changed) if number % 2 else min(200, len(changed))  # all of it, or its header
        for at in rng.integers(reach, size=rng.integers(1, 6)):
            changed[at] = rng.integers(256)
        read_or_refused(bytes(changed), name)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", SURROUNDED)
def test_what_stands_around_the_pixels_breaks_no_image(name):
    data, truth = SURROUNDED[name]
    picture = read(data, name).picture
    assert picture.dtype == truth.dtype
    assert picture.shape == truth.shape
    assert np.abs(picture.astype(int) - truth).max() <= 3 * name.startswith("JPEG")
    for end in np.linspace(1, len(data) - 1, 4).astype(int):  # and a cut one is still refused
        cut = read_or_refused(data[:end], name)
        if cut is not None:
            np.testing.assert_array_equal(cut, picture)


def test_libraries_are_quiet_while_threads_decode(capfd):
    """libjpeg speaks of what is between two markers, libpng of an odd profile; afterwards stderr is as it was."""
    jpeg = by_pillow(values(3), "JPEG")
    at = jpeg.rindex(b"\xff\xda")
    odd = [jpeg[:at] + b"\0" * 9 + jpeg[at:], by_pillow(values(3), "PNG", icc_profile=b"x" * 300)] * 50
    assert cv2.imdecode(np.frombuffer(odd[0], np.uint8), 1) is not None
    assert cv2.imdecode(np.frombuffer(odd[1], np.uint8), 1) is not None
    said = capfd.readouterr().err
    assert "extraneous bytes" in said
    assert "iCCP" in said
    threads = [threading.Thread(target=lambda: [decode(data, "x") for data in odd]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    filters = list(warnings.filters)
    decode(odd[0], "x")
    assert warnings.filters == filters
    os.write(2, b"heard")
    assert capfd.readouterr().err == "heard"


def test_a_process_without_stderr_decodes():
    script = (
        "import os, sys; os.close(2); from densessl.data.decoding import decode; "
        "print(decode(sys.stdin.buffer.read(), 'x').shape)"
    )
    done = subprocess.run([sys.executable, "-c", script], input=by_pillow(values(3), "PNG"), capture_output=True)
    assert done.stdout.decode().strip() == f"({HEIGHT}, {WIDTH}, 3)"


DECODE = """
import pickle, resource, sys
from densessl.data.decoding import Unreadable, decode
from densessl.data.pixels import Pixels

def memory(kind):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(kind)) * 1024

files, small = pickle.load(sys.stdin.buffer)
for data in small:  # what is made once
    decode(data, "x")
room, most = memory("VmSize") + (200 << 20), memory("VmHWM")
resource.setrlimit(resource.RLIMIT_AS, (room, room))
for name, data in files.items():
    for pixels in (Pixels(), Pixels(5, ((0, 100),))):
        try:
            print(name, decode(data, name, pixels).shape)
        except Unreadable as error:
            print(error)
print(memory("VmHWM") - most)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is told by Linux")
def test_a_bomb_never_gets_the_memory_that_its_header_asks_for():
    """60,000 x 60,000: 3.6 GB at least, with 200 MB to be had."""
    files = huge()
    small = [by_pillow(values(3), form) for form in ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")]
    done = subprocess.run([sys.executable, "-c", DECODE], input=pickle.dumps((files, small)), capture_output=True)
    *lines, grown = done.stdout.decode().splitlines()
    assert done.stderr == b""
    assert len(lines) == 2 * len(files)
    for name, line in zip(np.repeat(list(files), 2), lines, strict=True):
        assert line.startswith(f"{name}: ")
        assert ("cut it into tiles" in line) != ("cut short" in line and name in ("PNG with a huge chunk",)), line
    assert int(grown) < 20 << 20
