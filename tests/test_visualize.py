"""Pictures of what backbones see: each kind against a naive form, and the command's folder."""

import base64
import io
import itertools
import math
import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from torch import nn

from densessl.__main__ import COMMANDS
from densessl.backbone_file import load_backbone, save_backbone
from densessl.backbones import Backbone
from densessl.commands.visualize import main
from densessl.config import CropsConfig, PhotometricConfig, ViewsConfig
from densessl.data.crops import take_view
from densessl.data.decoding import RGB
from densessl.data.multi_crop import MultiCrop
from densessl.data.pictures import open_pictures
from densessl.data.pixels import Pixels
from densessl.data.scenes import Scenes
from densessl.errors import UserError
from densessl.visual import clusters, filters, matches, neighbours, pca, similarity
from densessl.visual.features import cell_at, chosen, enlarged, map_of, maps_of, resized
from densessl.visual.figure import Figure, Tile, sheet
from densessl.visual.page import data_uri

SIZES = ((4, 5), (3, 7), (6, 2))


def made_maps(channels=12, seed=0, sizes=SIZES):
    """Maps whose channels vary by different amounts, around a mean that is not zero."""
    random = torch.Generator().manual_seed(seed)
    mix = torch.randn(channels, channels, generator=random) @ torch.diag(torch.linspace(3, 0.1, channels))
    return [
        torch.einsum("dc,chw->dhw", mix, torch.randn(channels, *size, generator=random)) + 5 * mix[:, :1, None]
        for size in sizes
    ]


def every_place(maps):
    return [each[:, y, x].double().numpy() for each in maps for y in range(each.shape[1]) for x in range(each.shape[2])]


# --- components -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "sizes"), [(12, SIZES), (40, ((2, 3), (3, 2))), (6, ((9, 9),))])
def test_components_are_those_of_a_singular_value_decomposition(channels, sizes):
    maps = made_maps(channels, sizes=sizes)
    rows = np.array(every_place(maps))
    _, values, axes = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    axes = np.array([axis * np.sign(axis[np.abs(axis).argmax()]) for axis in axes[:3]])
    share = values**2 / (values**2).sum()
    components = (rows - rows.mean(0)) @ axes.T
    low, high = np.percentile(components, 1, axis=0), np.percentile(components, 99, axis=0)
    truth = ((components - low) / (high - low)).clip(0, 1)

    found = pca.basis(torch.from_numpy(rows))
    np.testing.assert_allclose(found.axes.numpy(), axes, atol=1e-9)
    np.testing.assert_allclose(found.share, share[:3], atol=1e-12)
    coloured = pca.coloured(maps)
    np.testing.assert_allclose(np.array(every_place(coloured.maps)), truth, atol=1e-9)
    assert (coloured.flat, coloured.kept) == (False, 1)
    for each, at in zip(coloured.maps, np.cumsum([0, *(h * w for h, w in sizes)]), strict=False):
        image = pca.picture(each, 3 * each.shape[1], 2 * each.shape[2])
        for y, x in itertools.product(range(image.shape[0]), range(image.shape[1])):
            place = at + y // 3 * each.shape[2] + x // 2
            assert np.abs(image[y, x] - 255 * truth[place]).max() <= 0.5 + 1e-4


def test_components_do_not_depend_on_the_order_of_places_nor_their_signs_on_chance():
    rows = torch.from_numpy(np.array(every_place(made_maps())))
    found, turned = pca.basis(rows), pca.basis(rows.flip(0))
    torch.testing.assert_close(found.axes, turned.axes, atol=1e-9, rtol=0)
    assert all(axis[axis.abs().argmax()] > 0 for axis in found.axes)
    common = pca.basis(rows, "common")
    spans = common.high - common.low
    torch.testing.assert_close(spans, (found.high - found.low).max().expand(3))
    torch.testing.assert_close(common.high + common.low, found.high + found.low)


def test_features_that_are_all_equal_are_grey_and_so_said():
    one = torch.randn(16, generator=torch.Generator().manual_seed(0))
    maps = [one[:, None, None].expand(16, h, w) * (1 + 1e-7 * torch.randn(16, h, w)) for h, w in SIZES]
    found = pca.coloured(maps)
    assert found.flat
    assert all((each == pca.GREY).all() for each in found.maps)
    shown = [("a", np.zeros((8, 8, 3), np.uint8))] * len(maps)
    assert "nothing to show" in pca.figure(shown, {"x": maps}, title="t").facts[0]
    line = [torch.arange(6.0).view(1, 2, 3) * one[:, None, None]]  # one direction: the others hold rounding alone
    assert (pca.coloured(line).maps[0][1:] == pca.GREY).all()


def test_foreground_is_one_side_of_the_first_component():
    random = torch.Generator().manual_seed(0)
    truth = [torch.rand(size, generator=random) < 0.3 for size in SIZES]
    direction = torch.randn(10, generator=random)
    maps = [8.0 * t * direction[:, None, None] + torch.randn(10, *t.shape, generator=random) for t in truth]
    positive = direction[direction.abs().argmax()] > 0
    above, below = pca.foreground(maps, "above"), pca.foreground(maps, "below")
    for t, a, b in zip(truth, above, below, strict=True):
        assert ((a == t) if positive else (b == t)).all()
        assert (a != b).all()
    found = pca.coloured(maps, side="above" if positive else "below")
    rows = torch.from_numpy(np.array(every_place(maps)))[torch.cat([t.flatten() for t in truth])]
    assert found.share == pca.basis(rows).share
    assert found.kept == pytest.approx(float(torch.cat([t.flatten() for t in truth]).double().mean()))
    assert all((each[:, ~t] == 0).all() for each, t in zip(found.maps, truth, strict=True))


# --- similarity, neighbours, clusters ---------------------------------------------------------------------------------


def cosine(a, b):
    return float(sum(a * b) / math.sqrt(sum(a * a)) / math.sqrt(sum(b * b)))


@pytest.mark.parametrize("raw", [False, True])
def test_similarity_and_neighbours_are_those_of_a_loop(raw):
    maps = made_maps()
    rows = every_place(maps)
    mean = np.zeros(12) if raw else sum(rows) / len(rows)
    query = maps[0][:, 1, 2]
    middle = similarity.centre(maps, raw)
    for number, each in enumerate(maps):
        truth = np.array([cosine(query.double().numpy() - mean, row - mean) for row in every_place([each])])
        found = similarity.similarities(query, each, middle)
        np.testing.assert_allclose(found.flatten().numpy(), truth, atol=1e-9)
        place = neighbours.nearest_place(number, query, each, middle)
        assert place.picture == number
        assert place.cell == divmod(int(truth.argmax()), each.shape[2])
        assert place.grid == tuple(each.shape[1:])
        assert place.cosine == pytest.approx(truth.max())
    pairs = [cosine(a, b) for a, b in itertools.permutations(rows, 2)]
    assert similarity.common(maps) == pytest.approx(sum(pairs) / len(pairs), abs=1e-9)


def test_the_best_neighbours_come_first_and_of_equal_ones_the_earlier():
    places = [neighbours.Neighbour(n, (0, 0), (1, 1), c) for n, c in enumerate((0.5, 0.9, 0.5, 0.1, 0.9))]
    assert [one.picture for one in neighbours.best(iter(places), 4)] == [1, 4, 0, 2]


def test_clusters_are_found_again_and_largest_first():
    random = torch.Generator().manual_seed(0)
    truth = [
        torch.multinomial(torch.tensor([0.2, 0.5, 0.3]), h * w, True, generator=random).view(h, w) for h, w in SIZES
    ]
    directions = 10 * torch.eye(3, 8)
    maps = [directions[t].movedim(2, 0) + 0.3 * torch.randn(8, *t.shape, generator=random) + 4 for t in truth]
    numbers, shares = clusters.clusters(maps, 3)
    true, found = (torch.cat([each.flatten() for each in these]) for these in (truth, numbers))
    assert len({(int(t), int(f)) for t, f in zip(true, found, strict=True)}) == 3
    counts = sorted(torch.bincount(true).tolist(), reverse=True)
    assert torch.bincount(found).tolist() == counts
    assert shares == pytest.approx([count / len(true) for count in counts])
    again, _ = clusters.clusters(maps, 3)
    assert all(torch.equal(a, b) for a, b in zip(numbers, again, strict=True))
    with pytest.raises(UserError, match="--clusters 60: the pictures have 53 places"):
        clusters.clusters(maps, 60)
    image = np.full((8, 10, 3), 100, np.uint8)
    laid = clusters.overlay(image, numbers[0], [(255, 0, 0), (0, 255, 0), (0, 0, 255)])
    for y, x in itertools.product(range(8), range(10)):
        assert laid[y, x].argmax() == numbers[0][y // 2, x // 2]


# --- matches ----------------------------------------------------------------------------------------------------------

AFFINES = (  # one upright, one mirrored, one turned
    [[40.0, 0.0, 10.0], [0.0, 60.0, 20.0]],
    [[44.0, 0.0, 12.0], [0.0, -50.0, 75.0]],
    [[30.0, -12.0, 22.0], [14.0, 33.0, 30.0]],
)


@pytest.mark.parametrize("by", ["location", "feature"])
@pytest.mark.parametrize(("first", "second"), [(0, 1), (1, 2), (2, 0)])
def test_matches_are_those_of_a_loop_and_drawn_where_they_lie(by, first, second):
    a, b = made_maps(6, seed=3, sizes=((4, 4), (3, 5)))
    affines = [torch.tensor(AFFINES[i]) for i in (first, second)]

    def at(affine, grid):
        unit = [((y + 0.5) / grid[0], (x + 0.5) / grid[1]) for y in range(grid[0]) for x in range(grid[1])]
        return [[float(row[0] * y + row[1] * x + row[2]) for row in affine] for y, x in unit]

    places = [at(affine, each.shape[1:]) for affine, each in zip(affines, (a, b), strict=True)]
    features = every_place([a]), every_place([b])
    compared = places if by == "location" else features
    pairs = []
    for i, one in enumerate(compared[0]):
        distances = [math.dist(one, other) for other in compared[1]]
        j = min(range(len(distances)), key=distances.__getitem__)
        pairs.append((distances[j], i, j))
    truth = sorted((i, j) for _, i, j in sorted(pairs)[:7])
    found = matches.matched(a, b, affines, 7, by)
    assert list(zip(found.a.tolist(), found.b.tolist(), strict=True)) == truth
    apart = [math.dist(places[0][i], places[1][j]) for i, j in truth]
    assert found.apart.tolist() == pytest.approx(apart, rel=1e-5)
    assert found.distance.tolist() == pytest.approx([math.dist(features[0][i], features[1][j]) for i, j in truth])
    areas = [abs(m[0][0] * m[1][1] - m[0][1] * m[1][0]) for m in (AFFINES[first], AFFINES[second])]
    cell = max(math.sqrt(areas[0] / 16), math.sqrt(areas[1] / 15))
    assert found.cell == pytest.approx(cell)
    assert found.near == sum(each <= cell for each in apart)
    near = [math.dist(places[0][i], place) <= cell for i, _ in truth for place in places[1]]
    assert found.chance == pytest.approx(sum(near) / len(near))

    black = np.zeros((50, 50, 3), np.uint8)
    page = matches.drawn([black, black], found, [a.shape[1:], b.shape[1:]], 240)
    assert page.shape == (240, 496, 3)
    marked = set()  # middles of cells that are not black
    for left, grid in ((0, (4, 4)), (256, (3, 5))):
        for y, x in itertools.product(range(grid[0]), range(grid[1])):
            spot = page[round((y + 0.5) * 240 / grid[0]) - 1, left + round((x + 0.5) * 240 / grid[1]) - 1]
            if spot.max() > 60:
                marked.add((left > 0, y * grid[1] + x))
    ends = {(False, i) for i, _ in truth} | {(True, j) for _, j in truth}
    assert ends <= marked


def test_a_single_match_is_one_line_between_its_cells():
    found = matches.Matched(*(torch.tensor([v]) for v in (5, 2, 0.0, 1.0)), cell=8.0, chance=0.1)
    page = matches.drawn([np.zeros((9, 9, 3), np.uint8)] * 2, found, [(4, 4), (3, 3)], 240)
    start, end = (90, 90), (256 + 200, 40)  # x, y of the middles
    yellow = np.argwhere((page[..., 0] > 200) & (page[..., 1] > 180) & (page[..., 2] < 120))
    assert len(yellow) > 300
    (x0, y0), (x1, y1) = start, end
    for y, x in yellow:
        t = ((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / ((x1 - x0) ** 2 + (y1 - y0) ** 2)
        assert math.dist((x, y), (x0 + t * (x1 - x0), y0 + t * (y1 - y0))) < 6
        assert -0.02 < t < 1.02


def test_views_are_those_that_training_takes_without_its_colours():
    picture = Scenes(size=120).read(0)
    views = ViewsConfig(
        large=CropsConfig(count=2, size=48, scale=(0.3, 0.9)), small=CropsConfig(count=3, size=32, scale=(0.1, 0.3))
    )
    theirs = list(MultiCrop(views, PhotometricConfig(where="workers"), 5)(picture, 0, 7))[:2]
    ours = matches.two_views(views, picture, 7, seed=5, pixels=RGB, photometric=matches.PLAIN)
    assert len(ours) == 2
    for mine, his in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(mine.affine, his.affine)
        np.testing.assert_array_equal(mine.image, take_view(picture, mine.affine, 48))
    coloured = matches.two_views(views, picture, 7, seed=5, pixels=RGB, photometric=PhotometricConfig())
    np.testing.assert_array_equal(coloured[0].image, theirs[0].image)


# --- maps, filters, sheets --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["test_convnext", "test_resnet", "test_vit"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_maps_are_those_of_the_picture_less_mean_by_std(name, dtype):
    backbone = load_backbone(name)
    white = np.iinfo(dtype).max
    picture = np.random.default_rng(0).integers(0, white, (64, 96, 3)).astype(dtype)
    backbone.metadata |= {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25)}
    values = (picture.astype(np.float64) / white - (0.4, 0.5, 0.6)) / (0.2, 0.3, 0.25)
    image = torch.from_numpy(values.transpose(2, 0, 1).copy()).float()[None]
    found = map_of(backbone, picture, ("1", "2", "3", "4", "last"))
    with torch.no_grad():
        raw, normed = backbone.stages(image), backbone(image)[-1]
    for key, truth in {**dict(zip("1234", raw, strict=True)), "last": normed}.items():
        torch.testing.assert_close(found[key], truth[0], rtol=1e-4, atol=1e-4)
    assert torch.equal(found["4"], found["last"]) == (name == "test_resnet")


@pytest.mark.parametrize(
    ("shape", "size", "step", "wanted"),
    [((50, 70), 64, 32, (64, 96)), ((200, 90), 64, 16, (144, 64)), ((64, 64), 64, 32, (64, 64))],
)
@pytest.mark.parametrize(("dtype", "channels"), [(np.uint8, 3), (np.uint16, 1), (np.uint16, 5)])
def test_pictures_get_the_size_and_whole_cells(shape, size, step, wanted, dtype, channels):
    across = np.broadcast_to(np.linspace(0, 200, shape[1])[None, :, None], (*shape, channels)).astype(dtype)
    found = resized(across, size, step)
    assert (found.shape, found.dtype) == ((*wanted, channels), dtype)
    truth = np.linspace(0, 200, wanted[1])
    assert np.abs(found.astype(float) - truth[None, :, None]).max() < 5


def test_places_and_cells():
    assert [cell_at((x, y), 4, 8) for x, y in ((0, 0), (0.5, 0.5), (1, 1), (0.99, 0.24))] == [
        (0, 0),
        (2, 4),
        (3, 7),
        (0, 7),
    ]
    values = torch.arange(6.0).view(1, 2, 3)
    large = enlarged(values, 6, 12, "nearest")[0]
    assert all(large[y, x] == values[0, y // 3, x // 4] for y, x in itertools.product(range(6), range(12)))
    smooth = enlarged(values, 6, 12, "bilinear")[0]
    assert (smooth[1, 1], smooth[4, 10]) == pytest.approx((0, 5), abs=0.5)


def test_filters_are_drawn_around_grey_in_their_order():
    backbone = load_backbone("test_convnext")
    weights = filters.first_filters(backbone)
    assert torch.equal(weights, backbone.net.stem[0].weight)
    with torch.no_grad():
        weights[3] = 0
        weights[5] = 100
    page = filters.grid(weights)
    columns = math.ceil(math.sqrt(len(weights)))
    step = (page.shape[1] + 1) / columns
    middle = [(int((n // columns + 0.5) * step), int((n % columns + 0.5) * step)) for n in (3, 5)]
    assert (page[middle[0]] == 128).all()
    assert (page[middle[1]] == 255).all()
    one = nn.Module()
    one.net = nn.Sequential(nn.Identity(), nn.Conv2d(2, 9, 7))
    assert filters.grid(filters.first_filters(one)).shape[2] == 3  # type: ignore[arg-type]


def test_a_sheet_shows_its_tiles_as_they_are():
    random = np.random.default_rng(0)
    tiles = [
        Tile(random.integers(0, 256, (40, 60, 3), dtype=np.uint8), "alt", f"tile {n} \N{SNOWMAN}") for n in range(5)
    ]
    figure = Figure("name", "A title " * 20, (), [tiles[:3], tiles[3:]], ["a fact " * 40])
    page = np.array(sheet(figure))
    for tile in tiles:
        found = cv2.matchTemplate(page, tile.image, cv2.TM_SQDIFF)
        top, left = np.unravel_index(found.argmin(), found.shape)
        np.testing.assert_array_equal(page[top : top + 40, left : left + 60], tile.image)
    flat = np.kron(tiles[0].image, np.ones((4, 4, 1), np.uint8))
    for image, form in ((flat, "png"), (cv2.blur(tiles[0].image, (9, 9)), "jpeg")):
        head, _, body = data_uri(image).partition(",")
        assert head == f"data:image/{form};base64"
        stored = np.array(Image.open(io.BytesIO(base64.b64decode(body)))).astype(int)
        assert np.abs(stored - image).max() <= (0 if form == "png" else 12)


# --- the command ------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append((tag, found))
        self.ids += [found["id"]] if "id" in found else []
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures")
    scenes = Scenes(size=96)
    for i in range(4):
        Image.fromarray(scenes.read(i)[: 96 - 8 * i]).save(path / f"scene <{i}>.png")
    Image.fromarray(scenes.read(4)[..., 0]).save(path / "grey.png")
    cv2.imwrite(str(path / "sixteen.png"), scenes.read(5).astype(np.uint16) * 257)
    (path / "broken.png").write_bytes(b"no picture")
    return path


WORDS = ["--size", "64", "--pictures", "7", "--clusters", "3", "--device", "cpu", "--search", "5"]
VIEWS = "vicregl_cnx_s_1gpu"


def test_the_folder_is_whole_and_the_same_again(folder, tmp_path, capsys):
    backbone = Backbone("test_convnext")
    save_backbone(tmp_path / "b.safetensors", backbone, mean=(0.5,) * 3, std=(0.2,) * 3, method="vicregl", step=3)
    words = ["test_convnext", str(tmp_path / "b.safetensors"), "--data", str(folder), *WORDS, "--cfg", VIEWS]
    words += ["--pictures", "3", "--size", "64", "96", "--stage", "2"]
    for out in ("one", "two"):
        assert main([*words, "--out", str(tmp_path / out)]) == 0
    told = capsys.readouterr()
    assert "index.html: 10 figures of 3 pictures" in told.out
    assert f"skipped: {folder}/broken.png: not a picture" in told.err
    kinds = ("pca", "similarity", "clusters", "neighbours")
    maps = [f"{kind}-2-{size}.png" for kind in kinds for size in (64, 96)]
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == sorted([*maps, "matches.png", "filters.png", "index.html"])
    for name in files:
        one, two = ((tmp_path / out / name).read_bytes() for out in ("one", "two"))
        assert one.replace(b"/one", b"/two") == two, name
        if name.endswith(".png"):
            assert min(Image.open(io.BytesIO(one)).size) > 100

    text = (tmp_path / "one" / "index.html").read_text()
    page = Page(text)
    assert len(set(page.ids)) == len(page.ids)
    assert not re.search(r"https?:|src=\"(?!data:)|url\(|@import|<script", text)
    images = [found for tag, found in page.tags if tag == "img"]
    assert len(images) == 2 * (3 * 3 * 3 + 2 * 5) + 3 * 4 + 2  # one of five that were searched is broken
    for image in images:
        assert len(image["alt"]) > 5
        with Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2]))) as shown:
            assert shown.size == (int(image["width"]), int(image["height"]))
    links = {found["href"] for tag, found in page.tags if tag == "a"}
    assert links == {f"#{name[:-4]}" for name in files if name.endswith(".png")}
    assert "scene &lt;0&gt;.png" in text
    assert "mean 0.5, 0.5, 0.5" in text
    assert "visualize" in COMMANDS


def test_two_channels_of_sixteen_bits_are_stretched_and_one_picture_has_no_neighbours(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    picture = np.random.default_rng(0).integers(100, 4000, (70, 90, 2)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "data" / "a.tif", picture, photometric="minisblack")
    pixels = Pixels(2, ((100, 4000), (0, 8000)))
    save_backbone(
        tmp_path / "b.safetensors", Backbone("test_convnext", in_chans=2), mean=(0.5, 0.2), std=(0.3, 0.3),
        method="vicregl", step=1, pixels=pixels,
    )  # fmt: skip
    words = ["test_resnet", str(tmp_path / "b.safetensors"), "--data", str(tmp_path / "data"), *WORDS, "--cfg", VIEWS]
    assert main([*words, "--out", str(tmp_path / "out"), "--enlarge", "bilinear", "--raw", "--scale", "common"]) == 0
    assert "no neighbours" in capsys.readouterr().err
    assert not (tmp_path / "out" / "neighbours-last-64.png").exists()
    text = (tmp_path / "out" / "index.html").read_text()
    assert text.count("2 channels, values from 100 to 4000 and 0 to 8000") == 2
    shown = np.array(Image.open(tmp_path / "out" / "pca-last-64.png"))
    red, green, blue = shown[60:250, 30:300].reshape(-1, 3).mean(0)
    assert red == pytest.approx(255 / 2, rel=0.05)
    assert green == pytest.approx(255 / 4, rel=0.1)
    assert blue == 0


def test_unreadable_pictures_are_passed_over(folder):
    pictures = open_pictures(str(folder))
    rows, skipped = chosen([pictures], 7)
    assert [pictures.path(row).rsplit("/")[-1] for row in rows] == [
        *("grey.png", *(f"scene <{i}>.png" for i in range(4)), "sixteen.png")
    ]
    assert len(skipped) == 1
    assert "broken.png: not a picture" in skipped[0]
    assert [len(chosen([pictures], n)[0]) for n in (1, 2, 3, 50)] == [1, 2, 3, 6]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--size", "16"], "--size 16: test_convnext needs 64 pixels for a map of 2 x 2 cells"),
        (["--size", "5000"], "4096 are taken at most"),
        (["--place", "2,0"], "--place 2,0: two shares"),
        (["--place", "0.5"], "--place 0.5: two shares"),
        (["--place", "nan,0"], "--place nan,0: two shares"),
        (["--kinds", "pca", "magic"], "--kinds magic: there are pca, similarity"),
        (["--clusters", "99999"], "--clusters 99999: the pictures have"),
        (["--clusters", "1"], "--clusters 1: at least 2"),
        (["--pictures", "0"], "--pictures 0: at least 1"),
        (["--cfg", "nothing"], "--cfg nothing"),
        (["--data", "{none}"], "no pictures in this folder"),
        (["--data", "{bad}"], "no picture can be read of 1 that were tried; the first is .*x.png: empty file"),
        (["--out", "{bad}"], "holds x.png already"),
        (["--size", "64", "--cfg", "demo", "--kinds", "matches", "--stage", "1"], ""),
    ],
)
def test_mistakes_are_said_and_nothing_is_left(folder, tmp_path, words, message):
    for name in ("none", "bad"):
        (tmp_path / name).mkdir()
    (tmp_path / "bad" / "x.png").touch()
    words = [word.format(none=tmp_path / "none", bad=tmp_path / "bad") for word in words]
    given = ["test_convnext", "--data", str(folder), "--out", str(tmp_path / "out"), *WORDS, *words]
    if not message:
        assert main(given) == 0
        return
    with pytest.raises(UserError, match=message):
        main(given)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad", "none"]


def test_a_report_can_draw_with_a_backbone_and_pictures_alone():
    pictures = [Scenes(size=96).read(i) for i in range(3)]
    coloured = pca.coloured(maps_of(load_backbone("test_resnet"), pictures, 64))
    assert [pca.picture(each, 90, 80).shape for each in coloured.maps] == [(90, 80, 3)] * 3
    with pytest.raises(UserError, match="--size 8"):
        maps_of(load_backbone("test_resnet"), pictures, 8)
