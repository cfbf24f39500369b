"""Pictures in every form of file that can be read, each with what another library says is in it."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any, NamedTuple

import cv2
import numpy as np
import tifffile
from PIL import Image, ImageOps

HEIGHT, WIDTH = 24, 36


class Form(NamedTuple):
    data: bytes
    truth: np.ndarray  # (h, w, C), alpha and all, upright
    alpha: bool = False
    array: bool = False
    off: int = 0  # grey levels that decoders may differ by


def values(channels: int, dtype: str = "uint8") -> np.ndarray:
    """(24, 36, channels), smooth enough for JPEG; of floats some are no numbers."""
    rng = np.random.default_rng(channels)
    coarse = rng.random((4, 6, channels)).repeat(6, 0).repeat(6, 1)
    unit = 0.9 * coarse + 0.1 * rng.random((HEIGHT, WIDTH, channels))
    kind = np.dtype(dtype)
    if kind.kind == "b":
        return unit > 0.5
    if kind.kind == "f":
        picture = (unit * 40 - 10).astype(kind)
        picture[0, :4, 0] = np.nan, np.inf, -np.inf, 0
        return picture
    info = np.iinfo(kind)
    return (info.min + unit * (float(info.max) - info.min)).astype(kind)


def by_pillow(picture: np.ndarray | Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(buffer, form, **options)
    return buffer.getvalue()


def by_tifffile(picture: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, picture, **options)
    return buffer.getvalue()


def by_numpy(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, picture)
    return buffer.getvalue()


def forms() -> dict[str, Form]:
    """By name."""
    return _pillow() | _sixteen() | _tiff() | _numpy()


def _seen(data: bytes, mode: str, alpha: bool = False, off: int = 0) -> Form:
    """As Pillow sees it, turned as EXIF asks."""
    image = Image.open(io.BytesIO(data))
    upright = np.array(ImageOps.exif_transpose(image).convert(mode))
    return Form(data, np.atleast_3d(upright), alpha, off=off)


def _pillow() -> dict[str, Form]:
    rgb, rgba = Image.fromarray(values(3)), Image.fromarray(values(4))
    grey, la = rgb.convert("L"), rgba.convert("LA")
    few, cmyk, bits = rgb.quantize(9), rgb.convert("CMYK"), rgb.convert("1")
    found = {
        f"{form} {name}": _seen(by_pillow(image, form, **options), mode, off=3 * (form == "JPEG"))
        for form, name, image, mode, options in [
            ("JPEG", "RGB", rgb, "RGB", {"quality": 98, "subsampling": 0}),
            ("JPEG", "progressive", rgb, "RGB", {"quality": 98, "subsampling": 0, "progressive": True}),
            ("JPEG", "grey", grey, "L", {"quality": 98}),
            ("JPEG", "CMYK", cmyk, "RGB", {"quality": 98}),
            ("PNG", "RGB", rgb, "RGB", {}),
            ("PNG", "grey", grey, "L", {}),
            ("PNG", "palette", few, "RGB", {}),
            ("PNG", "1 bit", bits, "L", {}),
            ("WEBP", "RGB", rgb, "RGB", {"lossless": True}),
            ("BMP", "RGB", rgb, "RGB", {}),
            ("BMP", "grey", grey, "L", {}),
            ("BMP", "palette", few, "RGB", {}),
            ("GIF", "palette", few, "RGB", {}),
            ("GIF", "animated", few, "RGB", {"save_all": True, "append_images": [rgb.rotate(180).quantize(9)]}),
            ("PPM", "RGB", rgb, "RGB", {}),
            ("PPM", "grey", grey, "L", {}),
            ("PPM", "1 bit", bits, "L", {}),
            ("TIFF", "RGB", rgb, "RGB", {}),
            ("TIFF", "LZW", rgb, "RGB", {"compression": "tiff_lzw"}),
            ("TIFF", "packbits", rgb, "RGB", {"compression": "packbits"}),
            ("TIFF", "JPEG", rgb, "RGB", {"compression": "jpeg"}),
            ("TIFF", "grey LZW", grey, "L", {"compression": "tiff_lzw"}),
            ("TIFF", "palette", few, "RGB", {}),
            ("TIFF", "CMYK", cmyk, "RGB", {}),
            ("TIFF", "CMYK LZW", cmyk, "RGB", {"compression": "tiff_lzw"}),
            ("TIFF", "1 bit", bits, "L", {}),
            ("TIFF", "fax", bits, "L", {"compression": "group4"}),
        ]
    }
    for name, image, mode, form, options in [
        ("PNG RGBA", rgba, "RGBA", "PNG", {}),
        ("PNG LA", la, "LA", "PNG", {}),
        ("PNG palette, clear", few, "RGBA", "PNG", {"transparency": 2}),
        ("PNG RGB, clear", rgb, "RGBA", "PNG", {"transparency": rgb.getpixel((3, 3))}),
        ("WEBP RGBA", rgba, "RGBA", "WEBP", {"lossless": True, "exact": True}),
        ("TIFF RGBA", rgba, "RGBA", "TIFF", {}),
        ("TIFF LA", la, "LA", "TIFF", {}),
        ("TIFF RGBA LZW", rgba, "RGBA", "TIFF", {"compression": "tiff_lzw"}),
    ]:
        found[name] = _seen(by_pillow(image, form, **options), mode, alpha=True)
    turned = Image.Exif()
    turned[0x0112] = 6
    for form in ("JPEG", "PNG", "WEBP", "TIFF"):
        options = {"lossless": True} if form == "WEBP" else {"quality": 98, "subsampling": 0} if form == "JPEG" else {}
        found[f"{form} turned"] = _seen(by_pillow(rgb, form, exif=turned, **options), "RGB", off=3 * (form == "JPEG"))
    lzw = by_pillow(few, "TIFF", exif=turned, compression="tiff_lzw")
    return found | {"TIFF palette turned": _seen(lzw, "RGB")}


def _sixteen() -> dict[str, Form]:
    """PNG of 16 bits, most of which Pillow can't read: as they were written."""
    found = {}
    for channels, name in ((1, "grey"), (3, "RGB"), (4, "RGBA")):
        picture = values(channels, "uint16")
        bgr = picture[..., [2, 1, 0, 3][:channels]] if channels > 1 else picture
        if channels < 4:
            found[f"PNM 16 bit {name}"] = Form(
                cv2.imencode(".ppm" if channels > 1 else ".pgm", bgr)[1].tobytes(), picture
            )
        found[f"PNG 16 bit {name}"] = Form(cv2.imencode(".png", bgr)[1].tobytes(), picture, channels == 4)
    return found


def _tiff() -> dict[str, Form]:
    """As tifffile reads them, its axes put in order by hand."""
    pixels = {"photometric": "minisblack", "planarconfig": "contig"}
    planes = {"photometric": "minisblack", "planarconfig": "separate"}
    found = {}

    def add(name: str, picture: np.ndarray, alpha: bool = False, first: bool = False, **options: Any) -> None:
        data = by_tifffile(np.moveaxis(picture, 2, 0) if first else picture, **options)
        read = tifffile.imread(io.BytesIO(data))
        read = np.atleast_3d(np.moveaxis(read, 0, 2) if first and read.ndim == 3 else read)
        np.testing.assert_array_equal(read, picture)
        found[f"TIFF {name}"] = Form(data, picture, alpha)

    for dtype in ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float16", "float32", "float64"):
        add(f"{dtype} x 1", values(1, dtype), first=True, photometric="minisblack")
        for channels in (2, 5):
            add(f"{dtype} x {channels}", values(channels, dtype), **pixels)
    for channels in (3, 16):
        add(f"planes x {channels}", values(channels, "uint16"), first=True, **planes)
        add(f"pixels x {channels}", values(channels, "uint16"), **pixels)
        add(f"pages x {channels}", values(channels, "uint16"), first=True, photometric="minisblack", metadata=None)
    add("of an array", values(5, "uint16"))  # which tifffile writes as 24 pages of 36 x 5
    add("RGB 16 bit", values(3, "uint16"), photometric="rgb")
    add("RGBA 16 bit", values(4, "uint16"), alpha=True, photometric="rgb", extrasamples=["unassalpha"])
    add("RGB and infrared", values(4, "uint16"), photometric="rgb", extrasamples=["unspecified"])
    add("grey, alpha", values(2, "uint16"), alpha=True, extrasamples=["assocalpha"], **pixels)
    add("big-endian", values(5, "uint16"), byteorder=">", **pixels)
    add("big-endian floats", values(5, "float32"), byteorder=">", **pixels)
    add("BigTIFF", values(5, "uint16"), bigtiff=True, **pixels)
    add("tiles", values(5, "float32"), tile=(16, 16), **pixels)
    add("tiles of planes", values(5, "int16"), first=True, tile=(16, 16), compression="zlib", **planes)
    add("deflate", values(5, "uint16"), compression="zlib", predictor=True, rowsperstrip=5, **pixels)
    add("ImageJ", values(5, "uint16"), first=True, imagej=True, metadata={"axes": "CYX"})
    add("OME", values(5, "uint16"), first=True, ome=True, metadata={"axes": "CYX"})
    for dtype in ("uint8", "uint16"):  # the other way round
        white, top = values(1, dtype), np.iinfo(dtype).max
        found[f"TIFF {dtype}, 0 is white"] = Form(by_tifffile(top - white[..., 0], photometric="miniswhite"), white)
    return found


def _numpy() -> dict[str, Form]:
    """As NumPy reads them."""
    found = {}
    for dtype in ("bool", "uint8", "int8", "uint16", "int16", "uint32", "int64", "float16", "float32", "float64"):
        for channels in (1, 3, 5):
            picture = values(channels, dtype)
            data = by_numpy(picture)
            truth = np.load(io.BytesIO(data))
            np.testing.assert_array_equal(truth, picture)
            found[f"npy {dtype} x {channels}"] = Form(
                data, truth * np.uint8(255) if dtype == "bool" else truth, array=True
            )
    picture = values(16, "uint16")
    found["npy grey"] = Form(by_numpy(picture[..., 0]), picture[..., :1], array=True)
    found["npy channels first"] = Form(by_numpy(np.moveaxis(picture, 2, 0)), picture, array=True)
    found["npy by columns"] = Form(by_numpy(np.asfortranarray(picture)), picture, array=True)
    found["npy big-endian"] = Form(by_numpy(picture.astype(">u2")), picture, array=True)
    return found


def chunk(kind: bytes, body: bytes, crc: int | None = None) -> bytes:
    """Of a PNG."""
    return (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) if crc is None else crc)
    )


def in_png(png: bytes, more: bytes, behind: bool = False) -> bytes:
    """With more chunks before or behind the pixels."""
    at = png.rindex(b"IEND") - 4 if behind else 33
    return png[:at] + more + png[at:]


def segment(kind: int, body: bytes) -> bytes:
    """Of a JPEG."""
    return b"\xff" + bytes([kind]) + struct.pack(">H", len(body) + 2) + body


def in_jpeg(jpeg: bytes, more: bytes) -> bytes:
    return jpeg[:2] + more + jpeg[2:]


def made_tiff(
    picture: np.ndarray, pointer: bytes = bytes(4), *, first: bool = True, rows: int = 7, **tags: Any
) -> bytes:
    """Grey or RGB of 8 bits in strips, its tags before or behind the pixels; ``tags`` are t270="text" or t274=6."""
    height, width = picture.shape[:2]
    strips = [picture[top : top + rows].tobytes() for top in range(0, height, rows)]
    place, places = 8, []
    values: dict[int, Any] = {
        256: width,
        257: height,
        258: 8,
        259: 1,
        262: 1 + (picture.ndim == 3),
        273: [0] * len(strips),
    }
    values |= {277: picture.size // (height * width), 278: rows, 279: [len(strip) for strip in strips]}
    values |= {int(name[1:]): value for name, value in tags.items()}
    long = {tag: _packed(value) for tag, value in values.items()}
    head = 2 + 12 * len(values) + len(pointer)
    beside = sum(len(data) for _, _, data in long.values() if len(data) > 4)
    pixels = sum(map(len, strips))
    start, behind = (8, 8 + head) if first else (8 + pixels + beside, 8 + pixels)
    place = behind + beside if first else 8
    for strip in strips:
        places.append(place)
        place += len(strip)
    long[273] = _packed(places)
    entries, out = b"", b""
    for tag, (kind, count, data) in sorted(long.items()):
        where = data.ljust(4, b"\0") if len(data) <= 4 else struct.pack("<I", behind + len(out))
        entries += struct.pack("<HHI", tag, kind, count) + where
        out += data if len(data) > 4 else b""
    body = struct.pack("<H", len(long)) + entries + pointer
    parts = (body, out, *strips) if first else (*strips, out, body)
    return b"II*\0" + struct.pack("<I", start) + b"".join(parts)


def _packed(value: Any) -> tuple[int, int, bytes]:
    """A tag's type, count and bytes."""
    if isinstance(value, str):
        return 2, len(value) + 1, value.encode() + b"\0"
    numbers = value if isinstance(value, list) else [value]
    return 4, len(numbers), struct.pack(f"<{len(numbers)}I", *numbers)


def surrounded() -> dict[str, tuple[bytes, np.ndarray]]:
    """Whole images with something odd around their pixels, and those (h, w, C) as Pillow reads them without it."""
    found = {}
    rgb, noise = Image.fromarray(values(3)), np.random.default_rng(0).bytes(1_200_000)
    chunks = {
        "a profile of 1.2 MB": chunk(b"iCCP", b"scanner\0\0" + zlib.compress(noise, 1)),
        "an empty profile": chunk(b"iCCP", b""),
        "XMP of 2 MB": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"<x>" * 700_000)),
        "texts of 70 MB": chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(900_000))) * 80,
        "a text with a wrong sum": chunk(b"tEXt", b"a\0b", 1),
        "gamma without a number": chunk(b"gAMA", b"\0"),
        "no resolution": chunk(b"pHYs", b""),
        "EXIF that is none": chunk(b"eXIf", b"zzzzzz"),
        "a raw profile that is none": chunk(b"zTXt", b"Raw profile type exif\0\0zzz"),
        "no frames": chunk(b"acTL", b"\0\0\0"),
        "a chunk of another program": chunk(b"CgXX", b"abc"),
    }
    sixteen = values(3, "uint16")
    pngs = {"RGB": (by_pillow(rgb, "PNG"), values(3))}
    pngs["palette"] = by_pillow(rgb.quantize(9), "PNG"), np.array(rgb.quantize(9).convert("RGB"))
    pngs["16 bit"] = cv2.imencode(".png", sixteen[..., ::-1])[1].tobytes(), sixteen
    for form, (png, truth) in pngs.items():
        for what, more in chunks.items():
            for behind in (False, True):
                found[f"PNG {form}, {what}{' behind' * behind}"] = in_png(png, more, behind), truth
        found[f"PNG {form} without an end"] = png[:-12], truth
    found["PNG, a clear colour with a wrong sum"] = in_png(pngs["RGB"][0], chunk(b"tRNS", bytes(6), 5)), values(3)
    found["PNG, another first frame"] = (
        by_pillow(rgb, "PNG", save_all=True, default_image=True, append_images=[rgb.rotate(180)]),
        values(3),
    )
    turned = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x01\0\0\0\0\0\0"
    segments = {
        "EXIF and half a profile": segment(0xE1, turned) + segment(0xE2, b"ICC_PROFILE\0"),
        "EXIF that is none": segment(0xE1, b"Exif\0\0zzzz"),
        "half a list of images": segment(0xE2, b"MPF\0MM\0*\0\0\0\x08"),
        "bytes between segments": segment(0xFE, b"") + b"\0\0abc\xff\xff" + segment(0xE1, turned),
    }
    for mode in ("RGB", "L", "CMYK"):
        jpeg = by_pillow(rgb.convert(mode), "JPEG", quality=98)
        truth = np.atleast_3d(np.array(Image.open(io.BytesIO(jpeg)).convert("L" if mode == "L" else "RGB")))
        for what, more in segments.items():
            found[f"JPEG {mode}, {what}"] = in_jpeg(jpeg, more), truth
        found[f"JPEG {mode}, another cut behind it"] = jpeg + jpeg[:300], truth
    for truth in (values(1), values(3)):
        stored, name = truth.squeeze(), f"TIFF x {truth.shape[2]}"
        for first in (True, False):
            where = " before" if first else " behind"
            found[f"{name}, no pointer{where}"] = made_tiff(stored, b"", first=first), truth
            found[f"{name}, no pointer, one strip{where}"] = made_tiff(stored, b"", first=first, rows=HEIGHT), truth
            found[f"{name}, a pointer to pixels{where}"] = made_tiff(stored, b"\0\2\0\0", first=first), truth
            found[f"{name}, a pointer to no place{where}"] = made_tiff(stored, b"\xff" * 4, first=first), truth
            strips = -(-HEIGHT // 7)
            found[f"{name}, the last strip as long{where}"] = (
                made_tiff(stored, first=first, t279=[7 * stored[0].nbytes] * strips),
                truth,
            )
            odd = made_tiff(stored, first=first, t270="ImageJ=1.53\nimages=x\n")
            found[f"{name}, a broken description{where}"] = odd, truth
    return found


def turned(turn: int) -> dict[str, bytes]:
    """The same image whose turn is told in every place."""
    rgb = Image.fromarray(values(3))
    tag = struct.pack(">HHIHH", 274, 3, 1, turn, 0)
    exif = b"MM\0*\0\0\0\x08\0\x01" + tag + bytes(4)
    profile = b"\nexif\n%8d\n" % (6 + len(exif)) + (b"Exif\0\0" + exif).hex().encode() + b"\n"
    attribute = b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="%d"/>' % turn
    element = b"<rdf:Description><tiff:Orientation>%d</tiff:Orientation></rdf:Description>" % turn
    png, jpeg = by_pillow(rgb, "PNG"), by_pillow(rgb, "JPEG", quality=98)
    found = {
        "PNG, EXIF": chunk(b"eXIf", exif),
        "PNG, raw profile": chunk(b"tEXt", b"Raw profile type exif\0" + profile),
        "PNG, packed raw profile": chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile)),
        "PNG, international raw profile": chunk(b"iTXt", b"Raw profile type exif\0\0\0\0\0" + profile),
    }
    for name, xmp in (("attribute", attribute), ("element", element)):
        found[f"PNG, XMP {name}"] = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)
        found[f"PNG, packed XMP {name}"] = chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp))
    found = {
        f"{name}{' behind' * behind}": in_png(png, more, behind) for name, more in found.items() for behind in (0, 1)
    }
    exif = b"Exif\0\0" + exif
    found["JPEG, EXIF"] = in_jpeg(jpeg, segment(0xE1, exif))
    found["JPEG, EXIF in two"] = in_jpeg(jpeg, segment(0xE1, exif[:16]) + segment(0xE1, exif[:6] + exif[16:]))
    found["WebP, EXIF"] = by_pillow(rgb, "WEBP", lossless=True, exif=exif)
    found["TIFF, tag"] = made_tiff(values(3), t274=turn)
    for name, xmp in (("attribute", attribute), ("element", element)):
        found[f"JPEG, XMP {name}"] = in_jpeg(jpeg, segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp))
        found[f"JPEG, XMP {name} and EXIF of another"] = in_jpeg(
            found[f"JPEG, XMP {name}"], segment(0xE1, exif.replace(b"\x01\x12\0\3", b"\x01\x31\0\3"))
        )
        found[f"WebP, XMP {name}"] = by_pillow(rgb, "WEBP", lossless=True, xmp=xmp)
        found[f"TIFF, XMP {name}"] = by_tifffile(
            values(3), photometric="rgb", extratags=[(700, 1, len(xmp), xmp, True)]
        )
    return found


def said(data: bytes, **tags: int) -> bytes:
    """A TIFF that says something else about its first page than is true."""
    file = io.BytesIO(data)
    with tifffile.TiffFile(file, mode="r+") as tiff:
        for name, value in tags.items():
            tiff.pages.first.tags[name].overwrite(value)
        return file.getvalue()


def huge(side: int = 60_000) -> dict[str, bytes]:
    """Small files whose headers promise pictures of side x side."""
    found = {"WebP": b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<II", 10, 0)}
    found["WebP"] += max(0, side - 1).to_bytes(3, "little") * 2 + by_pillow(values(3), "WEBP")[12:]
    png = by_pillow(values(3), "PNG")
    header = b"IHDR" + struct.pack(">II", side, side) + png[24:29]
    found["PNG"] = png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]
    jpeg = by_pillow(values(3), "JPEG")
    at = jpeg.index(b"\xff\xc0") + 5
    found["JPEG"] = jpeg[:at] + struct.pack(">HH", side, side) + jpeg[at + 4 :]
    bmp = by_pillow(values(3), "BMP")
    found["BMP"] = bmp[:18] + struct.pack("<ii", side, side) + bmp[26:]
    gif = by_pillow(Image.fromarray(values(3)).quantize(9), "GIF")
    found["GIF"] = gif[:6] + struct.pack("<HH", side, side) + gif[10:]
    size = {"ImageWidth": side, "ImageLength": side}
    pixels = {"photometric": "minisblack", "planarconfig": "contig"}
    for name, options in {"": {}, " 64 bit": {"bigtiff": True}, " deflated": {"compression": "zlib"}}.items():
        found[f"TIFF{name}"] = said(by_tifffile(values(5, "uint16"), **pixels, **options), **size)
    tiles = by_tifffile(values(5, "uint16"), tile=(16, 16), **pixels)
    found["TIFF of many tiles"] = said(tiles, **size)
    found["TIFF of huge tiles"] = said(tiles, TileWidth=side - side % 16, TileLength=side - side % 16)
    for form in ("tiff_lzw", "group4", "jpeg"):  # by Pillow
        image = Image.fromarray(values(3)).convert("1" if form == "group4" else "RGB")
        found[f"TIFF {form}"] = said(by_pillow(image, "TIFF", compression=form), **size)
    npy = by_numpy(values(1)[..., 0])
    found["npy"] = npy.replace(f"({HEIGHT}, {WIDTH})".encode(), f"({side}, {side})".encode())
    chunk = png[:33] + b"\x7f\xff\xff\xff" + png[37:]
    return found | {"PNG with a huge chunk": chunk}
