"""Turned and mirrored views: where they lie, their pixels, and what is made of their places."""

import math

import numpy as np
import pytest
import torch
from test_views import UNCHANGED, centers, coordinates

from densessl.config import CropsConfig, PhotometricConfig, ViewsConfig, load_config
from densessl.data.crops import affine, crop_box, take_crop, take_view, turned_box
from densessl.data.loader import Loader
from densessl.data.multi_crop import MultiCrop, view_rng
from densessl.data.photometric import Photometric
from densessl.data.pixels import Pixels
from densessl.data.sheet import LARGE, Seen, outlined
from densessl.errors import UserError
from densessl.matching import cell_centers, close, nearest

HEIGHT, WIDTH = 300, 400
LYING = {
    "large": CropsConfig(count=2, size=96, scale=(0.2, 0.6)),
    "small": CropsConfig(count=3, size=40, scale=(0.05, 0.3)),
}
UPRIGHT = ViewsConfig(**LYING)
TURNED = ViewsConfig(**LYING, flip_vertical=0.5, turn=180)
CORNERS = ((0, 0), (0, 1), (1, 1), (1, 0))  # y, x of the unit square


def drawn(rng: np.random.Generator, height: int, width: int, scale: tuple[float, float], turn: float = 180):
    """Middle (y, x), height, width, angle, and by complex numbers the corners in the picture."""
    (top, left, h, w), angle = turned_box(rng, height, width, scale, turn)
    y, x = top + h / 2, left + w / 2
    turn_by = complex(math.cos(angle), math.sin(angle))
    ends = [complex(y, x) + complex((v - 0.5) * h, (u - 0.5) * w) * turn_by for v, u in CORNERS]
    return (y, x), h, w, angle, np.array([(z.real, z.imag) for z in ends])


def random_affine(rng: np.random.Generator, scale: tuple[float, float] = (0.02, 1.0)) -> np.ndarray:
    box, angle = turned_box(rng, HEIGHT, WIDTH, scale, 180)
    return affine(box, bool(rng.integers(2)), bool(rng.integers(2)), angle)


# --- where they lie ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(300, 400), (1, 1), (1, 500), (500, 1), (2, 3), (37, 1000)])
def test_turned_boxes_lie_in_the_picture(height, width):
    rng = np.random.default_rng(0)
    for _ in range(200):
        _, h, w, _, ends = drawn(rng, height, width, (0.08, 1.0))
        assert ends.min() > -1e-9
        assert (ends.max(0) < (height + 1e-9, width + 1e-9)).all()
        assert 3 / 4 - 1e-9 < w / h < 4 / 3 + 1e-9
    for flips in [(False, False), (False, True), (True, True)]:
        box, angle = turned_box(rng, height, width, (0.08, 1.0), 180)
        picture = np.full((height, width, 2), (50, 200), np.uint8)
        assert (take_view(picture, affine(box, *flips, angle), 24) == (50, 200)).all()  # no border is made up


def test_what_never_fits_is_shrunk_until_it_does():
    rng = np.random.default_rng(0)
    for _ in range(200):
        _, h, w, angle, ends = drawn(rng, 200, 200, (1.0, 1.0))
        assert h * w < 40_000 + 1e-6
        assert np.ptp(ends, 0).max() == pytest.approx(200)  # from end to end
        assert abs(angle) <= math.pi


def quantiles(values: list[float]) -> np.ndarray:
    return np.quantile(values, np.linspace(0.1, 0.9, 9))


@pytest.mark.parametrize(("turn", "scale"), [(180, (0.05, 0.2)), (30, (0.05, 0.2)), (180, (0.4, 1.0))])
def test_angles_and_places_are_uniform(turn, scale):
    rng = np.random.default_rng(0)
    angles, down, across, areas, aspects = [], [], [], [], []
    for _ in range(4000):
        (y, x), h, w, angle, ends = drawn(rng, HEIGHT, WIDTH, scale, turn)
        angles.append(math.degrees(angle) / turn)
        high, wide = np.ptp(ends, 0)
        if high < HEIGHT - 1:
            down.append((y - high / 2) / (HEIGHT - high))
        if wide < WIDTH - 1:
            across.append((x - wide / 2) / (WIDTH - wide))
        areas.append(h * w / (HEIGHT * WIDTH))
        aspects.append(math.log(w / h) / math.log(4 / 3))
    truth = np.linspace(0.1, 0.9, 9)
    np.testing.assert_allclose(quantiles(angles), 2 * truth - 1, atol=0.06)  # four standard deviations are 0.063
    np.testing.assert_allclose(quantiles(down), truth, atol=0.05)
    np.testing.assert_allclose(quantiles(across), truth, atol=0.05)
    if scale[1] < 0.4:  # all fit
        np.testing.assert_allclose(quantiles(areas), scale[0] + truth * (scale[1] - scale[0]), atol=0.006)
        np.testing.assert_allclose(quantiles(aspects), 2 * truth - 1, atol=0.06)


def test_flips_come_as_often_as_configured_and_independently():
    views = ViewsConfig(large=CropsConfig(count=2, size=16, scale=(0.1, 0.5)), flip=0.4, flip_vertical=0.2)
    picture = np.zeros((60, 80, 3), np.uint8)
    crops = MultiCrop(views, UNCHANGED, 0)
    signs = [crop.affine[[0, 1], [0, 1]] < 0 for i in range(1000) for crop in crops(picture, 0, i)]
    down, across = np.array(signs).T
    shares = [down.mean(), across.mean(), (down & across).mean()]
    np.testing.assert_allclose(shares, [0.2, 0.4, 0.08], atol=0.045)  # four standard deviations


def test_without_turns_no_number_is_asked_of_them():
    """Each view's box and flip, then each view's photometrics, from one stream."""
    picture = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    cfg = PhotometricConfig(where="workers")
    sizes = [(96, (0.2, 0.6))] * 2 + [(40, (0.05, 0.3))] * 3
    for index in range(5):
        rng = view_rng(4, 1, index)
        boxes = [(crop_box(rng, 120, 160, scale), bool(rng.random() < 0.5)) for _, scale in sizes]
        crops = MultiCrop(UPRIGHT, cfg, seed=4)(picture, 1, index)
        for number, (crop, (size, _), (box, flip)) in enumerate(zip(crops, sizes, boxes, strict=True)):
            image, _ = Photometric(cfg, size, number % 2 if size == 96 else number - 2)(
                take_crop(picture, box, flip, size), rng
            )
            np.testing.assert_array_equal(crop.image, image)
            top, left, height, width = box
            x = [0, -width, left + width] if flip else [0, width, left]
            assert crop.affine.tobytes() == np.array([[height, 0, top], x], np.float32).tobytes()


# --- their pixels -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [17, 32, 48, 96, 224])
def test_the_affine_is_where_the_pixels_come_from(size):
    rng = np.random.default_rng(size)
    picture = coordinates(HEIGHT, WIDTH)
    for _ in range(30):
        matrix = random_affine(rng)
        step = np.linalg.norm(matrix[:, :2], axis=0).max() / size
        places = centers(matrix, size)
        away = np.minimum(places, (HEIGHT, WIDTH) - places).min(-1) > max(2, step)
        error = (take_view(picture, matrix, size) - places)[away]
        assert np.abs(error).max() < 0.1  # as upright
        assert np.abs(error.mean(0)).max() < 0.01


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 16])
def test_quarter_turns_are_exact(channels, dtype):
    picture = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (60, 80, channels), dtype, endpoint=True)
    crop = picture[6:54, 20:68]
    for quarters, (a, b, c, d) in enumerate([(1, 0, 0, 1), (0, -1, 1, 0), (-1, 0, 0, -1), (0, 1, -1, 0)]):
        matrix = np.array([[48 * a, 48 * b, 30 - 24 * (a + b)], [48 * c, 48 * d, 44 - 24 * (c + d)]], np.float32)
        np.testing.assert_allclose(affine((6, 20, 48, 48), False, False, quarters * math.pi / 2), matrix, atol=1e-5)
        for flip in (matrix, affine((6, 20, 48, 48), True, False, quarters * math.pi / 2)):
            truth = np.rot90(crop, -quarters)
            truth = truth[:, ::-1] if flip is not matrix else truth
            view = take_view(picture, flip, 48)
            assert view.dtype == dtype
            np.testing.assert_array_equal(view, truth)
            if b:  # the others are upright
                halved = truth.reshape(24, 2, 24, 2, channels).mean((1, 3))
                assert np.abs(take_view(picture, flip, 24) - halved).max() < 1.01


@pytest.mark.parametrize("size", [16, 24, 32, 64])
def test_shrinking_averages_over_what_a_pixel_covers(size):
    """Against 24 x 24 looks into each view pixel. The picture is noise, the hardest there is."""
    rng = np.random.default_rng(size)
    picture = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    for _ in range(3):
        matrix = random_affine(rng, (0.3, 0.6))
        looks = np.floor(centers(matrix, 24 * size)).astype(int).clip(0, (HEIGHT - 1, WIDTH - 1))
        truth = picture[looks[..., 0], looks[..., 1]].reshape(size, 24, size, 24, 3).mean((1, 3))
        view = take_view(picture, matrix, size).astype(float)
        assert np.abs(view - truth).mean() < 0.4 * truth.std()  # one look a pixel is off by 3 to 10
        assert 0.85 < view.std() / truth.std() < 1.05


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 5, 16])
def test_channels_do_not_touch_each_other(channels, dtype):
    rng = np.random.default_rng(0)
    white = np.iinfo(dtype).max
    picture = rng.integers(0, white, (HEIGHT, WIDTH, channels), dtype, endpoint=True)
    off = white / 64 if channels == 2 else 1  # OpenCV turns pairs, but not others, to the next 32nd of a pixel
    box = (10, 20, 230, 260)
    places = [affine(box, True, True), affine(box, False, True), random_affine(rng, (0.3, 0.5))]
    for matrix in places:
        for size in (16, 40, 100, 190, 300):
            view = take_view(picture, matrix, size)
            assert view.shape == (size, size, channels)
            assert view.dtype == dtype
            alone = [take_view(picture[..., c : c + 1], matrix, size) for c in range(channels)]
            assert np.abs(view.astype(int) - np.concatenate(alone, 2)).max() <= off


def test_pictures_may_be_longer_than_opencv_turns():
    """Its own turning ends at 32,767 pixels."""
    picture = np.zeros((40_000, 100, 1), np.uint8)
    picture[-100:] = np.random.default_rng(0).integers(0, 256, (100, 100, 1))
    for size in (16, 24, 80):
        matrix = affine((39_920, 30, 60, 50), True, False, 0.5)
        there, here = matrix.copy(), matrix.copy()
        here[0, 2] -= 39_900
        np.testing.assert_allclose(
            take_view(picture, there, size).astype(int), take_view(picture[-100:], here, size), atol=2
        )


# --- what is made of their places -------------------------------------------------------------------------------------


def views_of(picture: np.ndarray, index: int):
    return list(MultiCrop(TURNED, UNCHANGED, seed=1)(picture, 0, index))[:2]


def test_all_views_of_a_picture_lie_where_they_say():
    picture = np.zeros((230, 250, 3), np.uint8)
    picture[..., :2] = coordinates(230, 250)  # the centre's half pixel is cut off
    turns, flips = set(), 0
    for index in range(20):
        for image, _, matrix in MultiCrop(TURNED, UNCHANGED, seed=3)(picture, 1, index):
            places = centers(matrix, len(image))
            away = np.minimum(places, (230, 250) - places).min(-1) > 3
            assert np.abs(image[..., :2] + 0.5 - places)[away].max() < 1.1  # rounded to grey levels, up to twice
            turns.add(round(math.degrees(math.atan2(matrix[1, 0], matrix[0, 0]))) // 45)
            flips += np.linalg.det(matrix[:, :2]) < 0
    assert turns == set(range(-4, 4))
    assert 30 < flips < 70  # of 100


def test_cells_of_turned_views_match_where_a_loop_says():
    """Each cell lies at the mean of its pixels' coordinates; the rest is loops in float64."""
    picture = coordinates(230, 250)
    shared = 0
    for index in range(15):
        (a, _, to_a), (b, _, to_b) = views_of(picture, index)
        grids = []
        for image, matrix in ((a, to_a), (b, to_b)):
            cells = image.reshape(6, 16, 6, 16, 2).mean((1, 3), dtype=float).reshape(36, 2)
            np.testing.assert_allclose(cell_centers(torch.from_numpy(matrix)[None], 6, 6)[0], cells, atol=0.05)
            middles = [((i + 0.5) / 6, (j + 0.5) / 6, 1) for i in range(6) for j in range(6)]
            grids.append([matrix.astype(float) @ middle for middle in middles])
        apart = [[math.dist(p, q) for q in grids[1]] for p in grids[0]]
        best = sorted(range(36), key=lambda p: min(apart[p]))[:10]
        ours, theirs = nearest(*(cell_centers(torch.from_numpy(m)[None], 6, 6) for m in (to_a, to_b)), k=10)
        assert ours[0].tolist() == sorted(best)
        assert theirs[0].tolist() == [apart[p].index(min(apart[p])) for p in sorted(best)]
        # PixPro's pairs: distances over the diagonal of the larger cell.
        diagonal = max(math.dist(m.astype(float)[:, :2] @ (1, 1), (0, 0)) for m in (to_a, to_b)) / 6
        found = close(torch.from_numpy(to_a)[None], torch.from_numpy(to_b)[None], (6, 6), (6, 6), 0.7)[0]
        assert found.tolist() == [[distance / diagonal < 0.7 for distance in row] for row in apart]
        shared += int(found.any())
    assert shared > 10


def test_outlines_and_marks_of_turned_views():
    source = np.zeros((230, 250, 3), np.uint8)
    source[..., :2] = coordinates(230, 250)
    marks = []
    for index in range(12):
        for image, _, matrix in views_of(source, index):
            seen = Seen(image, matrix, True)
            page = outlined(source, [seen], 230, 400)
            for y, x in [matrix.astype(float) @ (*corner, 1) for corner in CORNERS]:
                row, column = round(min(max(y - 0.5, 0), 229)), round(min(max(x - 0.5, 0), 249))
                assert tuple(page[row, column]) == LARGE
            across, down = (image[48, 70] - image[48, 20].astype(int), image[70, 48] - image[20, 48].astype(int))
            assert seen.mirrored == (down[0] * across[1] - down[1] * across[0] < 0)  # as the pixels go round
            marks.append(seen.mirrored)
            assert (page != source).any(-1).mean() < 0.1
    assert 4 < sum(marks) < 20  # of 24


def test_turned_views_of_any_channels_come_out_of_the_loader():
    class Bands:
        pixels = Pixels(5, range=((0, 4095),))

        def __len__(self) -> int:
            return 6

        def read(self, i: int, reduction: object = None) -> np.ndarray:
            return np.random.default_rng(i).integers(0, 65_536, (90, 100, 5), dtype=np.uint16)

    def images(workers: int) -> list[torch.Tensor]:
        loader = Loader(Bands(), TURNED, PhotometricConfig(), batch=3, seed=0, workers=workers)  # type: ignore[arg-type]
        return [view.image for _, views in loader.from_step(0, 3) for view in views.large + views.small]

    here, there = images(0), images(2)
    assert [image.shape for image in here[:5]] == [(3, 5, 96, 96)] * 2 + [(3, 5, 40, 40)] * 3
    assert all(image.dtype == torch.uint16 for image in here)
    assert all(map(torch.equal, here, there))


@pytest.mark.parametrize("key", ["views.turn=10", "views.flip_vertical=0.5"])
def test_the_authors_matching_has_no_turned_views(key):
    words = ["data.path=scenes", key]
    with pytest.raises(UserError, match=r"method.compat=official with views.turn=.*leave method.compat out"):
        load_config("vicregl_cnx_s_1gpu", [*words, "method.compat=official"])
    load_config("vicregl_cnx_s_1gpu", words)
    load_config("barlow_twins_r50", [*words, "method.compat=official"])  # of its gradient, not of places
