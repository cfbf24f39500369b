"""Classification on frozen features: against naive loops, on cases made by hand, and the command end to end."""

import dataclasses
import io
import json
import math
import tarfile

import numpy as np
import pytest
import torch
from picture_forms import turned
from PIL import Image, ImageOps
from torch import nn

from densessl.backbone_file import load_backbone, save_backbone
from densessl.backbones import Backbone
from densessl.classification import knn, protocols
from densessl.classification.evaluation import evaluate
from densessl.classification.features import centre_crop, crop_size, features
from densessl.classification.knn import nearest_knn, top, weighted_knn
from densessl.classification.labelled import Labelled, held_out, open_labelled
from densessl.classification.linear import probe
from densessl.classification.protocols.frozen import LINEAR_FEATURES
from densessl.commands.eval_cls import main
from densessl.data.decoding import Unreadable
from densessl.errors import UserError
from densessl.visual import gallery

SHORT = dataclasses.replace(LINEAR_FEATURES, epochs=60)


class Colours:
    """Noisy pictures; the label says in which colour."""

    names = ("red", "green", "blue")

    def __init__(self, count, size=(32, 32), seed=0, bad=()):
        self.size, self.seed, self.bad = size, seed, bad
        self.labels = np.random.default_rng(seed).integers(0, 3, count)

    def __len__(self):
        return len(self.labels)

    def read(self, i, reduction=None):
        if i in self.bad:
            raise Unreadable(f"{i}.png", "cut short")
        rng = np.random.default_rng((self.seed, i))
        picture = rng.integers(0, 120, (*self.size, 3), dtype=np.uint8)
        picture[..., self.labels[i]] += 60
        return picture


def labelled(count, **options):
    pictures = Colours(count, **options)
    return Labelled(pictures, pictures.labels, pictures.names)


def encoded(pixels, form="png"):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def write_folders(root, counts):
    for seed, (split, count) in enumerate(counts.items()):
        pictures = Colours(count, seed=seed)
        for i, label in enumerate(pictures.labels):
            folder = root / split / pictures.names[label]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{i}.png").write_bytes(encoded(pictures.read(i)))
    return root


def write_shards(root, counts, shards=2, classes=True, offset=0):
    root.mkdir(exist_ok=True)
    for seed, (split, count) in enumerate(counts.items()):
        pictures = Colours(count, seed=seed)
        for shard in range(shards):
            with tarfile.open(root / f"{split}-{shard:04d}.tar", "w") as tar:
                for i in range(shard, count, shards):
                    label = str(pictures.labels[i] + offset).encode()
                    for ending, data in (("png", encoded(pictures.read(i))), ("cls", label)):
                        entry = tarfile.TarInfo(f"{i:06d}.{ending}")
                        entry.size = len(data)
                        tar.addfile(entry, io.BytesIO(data))
    if classes:
        (root / "classes.txt").write_text("\n".join(Colours.names) + "\n")
    return root


def noise(n, m, c, classes, seed=0):
    g = torch.Generator().manual_seed(seed)
    train, test = (torch.randn(rows, c, generator=g) + 3 for rows in (n, m))
    return train, torch.randint(0, classes, (n,), generator=g), test, torch.randint(0, classes, (m,), generator=g)


# Nearest neighbours


def naive(train, labels, test, k, classes, temperature=None):
    """Votes by plain float64 loops; without a temperature Euclidean and unweighted."""
    votes = np.zeros((len(test), classes))
    for i, z in enumerate(test.double().tolist()):
        near = []
        for x, label in zip(train.double().tolist(), labels.tolist(), strict=True):
            if temperature is None:
                near.append((math.dist(z, x), label, 1.0))
            else:
                cosine = sum(a * b for a, b in zip(z, x, strict=True)) / math.hypot(*z) / math.hypot(*x)
                near.append((-cosine, label, math.exp(cosine / temperature)))
        for _, label, weight in sorted(near)[:k]:
            votes[i, label] += weight
    return votes


@pytest.mark.parametrize("at_once", [2**26, 500, 1])  # all rows together, seven at once, one by one
@pytest.mark.parametrize("k", [1, 5, 20])
def test_votes_are_those_of_naive_loops(monkeypatch, at_once, k):
    monkeypatch.setattr(knn, "AT_ONCE", at_once)
    train, labels, test, truth = noise(70, 30, 6, 4)
    plain, weighted = nearest_knn(train, labels, test, k), weighted_knn(train, labels, test, k, 0.07)
    assert plain.tolist() == naive(train, labels, test, k, 4).tolist()
    want = naive(train, labels, test, k, 4, 0.07)
    np.testing.assert_allclose(weighted.numpy(), want, rtol=1e-4)
    assert top(weighted, truth) == np.mean(want.argmax(1) == truth.numpy())


def test_votes_by_hand():
    line = torch.tensor([[0.0], [1.0], [2.0], [10.0], [11.0]])
    labels = torch.tensor([1, 0, 0, 2, 2])
    assert nearest_knn(line, labels, torch.tensor([[-1.0], [1.6], [9.0]]), 3).tolist() == [
        [2, 1, 0],
        [2, 1, 0],
        [1, 0, 2],
    ]
    # By cosine, length does not count: one picture at 0 degrees outweighs two at 60 (weights e^(1/T) and 2 e^(1/2T)).
    turned = torch.tensor([[5.0, 0.0], [0.5, 3**0.5 / 2], [0.5, -(3**0.5) / 2], [-1.0, 0.0]])
    votes = weighted_knn(turned, torch.tensor([0, 1, 1, 1]), torch.tensor([[0.1, 0.0]]), 3, 0.5)
    np.testing.assert_allclose(votes.numpy(), [[math.exp(2), 2 * math.exp(1)]], rtol=1e-5)
    assert weighted_knn(turned, torch.tensor([0, 1, 1, 1]), torch.tensor([[0.1, 0.0]]), 200).shape == (1, 2)


def test_far_away_features_keep_their_neighbours():
    train, labels, test, _ = noise(70, 30, 6, 4)
    assert torch.equal(nearest_knn(train + 1000, labels, test + 1000), nearest_knn(train, labels, test))


def test_top_counts_and_breaks_ties_by_the_lower_class():
    votes = torch.tensor([[1.0, 3, 3, 0], [0, 0, 0, 5], [2, 2, 2, 2]])
    assert top(votes, torch.tensor([1, 3, 0])) == 1
    assert top(votes, torch.tensor([2, 3, 3])) == pytest.approx(1 / 3)
    assert top(votes, torch.tensor([2, 0, 2]), 2) == pytest.approx(2 / 3)
    assert top(votes, torch.tensor([9, 3, 1]), 4) == pytest.approx(2 / 3)  # a class that training doesn't have


# The linear probe


def test_probe_is_adam_on_standardised_features_in_float64():
    protocol = dataclasses.replace(LINEAR_FEATURES, epochs=4, batch=8, lr=0.05, end_lr=0.001, weight_decay=0.3)
    train, labels, test, _ = noise(21, 5, 3, 4)
    found = probe(train, labels, test, protocol, seed=3)

    torch.manual_seed(3)
    layer = nn.Linear(3, 4)
    p = [layer.weight.detach().double().numpy().copy(), layer.bias.detach().double().numpy().copy()]
    x, z, y = train.double().numpy(), test.double().numpy(), labels.numpy()
    mean, std = x.mean(0), x.std(0, ddof=1)
    x, z = (x - mean) / std, (z - mean) / std
    m, v, t = [np.zeros_like(a) for a in p], [np.zeros_like(a) for a in p], 0
    for epoch in range(4):
        lr = 0.05 * (0.001 / 0.05) ** (epoch / 4)
        for rows in np.array_split(torch.randperm(21).numpy(), 3):
            t += 1
            logits = x[rows] @ p[0].T + p[1]
            share = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
            error = (share - np.eye(4)[y[rows]]) / len(rows)
            for i, gradient in enumerate((error.T @ x[rows], error.sum(0))):
                gradient = gradient + 0.3 * p[i]
                m[i] = 0.9 * m[i] + 0.1 * gradient
                v[i] = 0.999 * v[i] + 0.001 * gradient**2
                p[i] = p[i] - lr * (m[i] / (1 - 0.9**t)) / (np.sqrt(v[i] / (1 - 0.999**t)) + 1e-8)
    np.testing.assert_allclose(found.numpy(), z @ p[0].T + p[1], atol=2e-5)


def test_probe_is_right_on_separable_features_and_at_chance_on_shuffled_labels():
    x, y, z, truth = noise(600, 800, 20, 4)
    train, test = (f + 4 * nn.functional.one_hot(label, 20) for f, label in ((x, y), (z, truth)))
    before = torch.random.get_rng_state()
    votes = probe(train, y, test, LINEAR_FEATURES, 0)
    assert torch.equal(before, torch.random.get_rng_state())
    assert top(votes, truth) > 0.97  # whoever knew the four means would be right 99.3 times of 100
    far, further = train + 20 * nn.functional.one_hot(y, 20), test + 20 * nn.functional.one_hot(truth, 20)
    assert top(probe(far, y, further, LINEAR_FEATURES, 0), truth) == 1
    shuffled = y[torch.randperm(600, generator=torch.Generator().manual_seed(0))]
    assert abs(top(probe(train, shuffled, test, SHORT, 0), truth) - 0.25) < 0.06  # 4 standard deviations
    assert torch.equal(probe(train, y, test, SHORT, 0), probe(train, y, test, SHORT, 0))
    assert not torch.equal(probe(train, y, test, SHORT, 0), probe(train, y, test, SHORT, 1))


def test_probe_does_not_see_scale_nor_what_never_varies():
    train, labels, test, _ = noise(50, 20, 5, 3)
    want = probe(train, labels, test, SHORT, 0)
    scale = torch.tensor([1e-3, 1, 10, 1e3, 7])
    torch.testing.assert_close(probe(train * scale, labels, test * scale, SHORT, 0), want, atol=1e-3, rtol=1e-3)
    for size in (0.0, 1.0, 1e4):  # constant in training but for rounding
        constant = torch.full((50, 1), size) * (1 + 1e-7 * torch.randn(50, 1))
        more = probe(torch.cat([train, constant], 1), labels, torch.cat([test, torch.full((20, 1), size)], 1), SHORT, 0)
        other = probe(torch.cat([train, constant], 1), labels, torch.cat([test, torch.zeros(20, 1)], 1), SHORT, 0)
        assert torch.equal(more, other)


# Features


@pytest.mark.parametrize("name", ["convnext_atto", "test_resnet"])
def test_features_are_timms_pooled_ones(name):
    backbone, pictures = load_backbone(name), Colours(5, size=(40, 33))
    backbone.metadata |= {"mean": (0.4, 0.5, 0.6), "std": (0.1, 0.2, 0.3)}
    backbone.train()
    found = features(backbone, pictures, np.array([4, 0, 2]), size=None)
    assert backbone.training
    assert found.shape == (3, backbone.channels[-1])
    assert found.dtype == torch.float32
    for row, i in enumerate([4, 0, 2]):
        pixels = (pictures.read(i) / 255.0 - [0.4, 0.5, 0.6]) / [0.1, 0.2, 0.3]
        with torch.no_grad():  # timm's own forward ends with final norm and pooling
            want = backbone.eval().net(torch.from_numpy(pixels).float().permute(2, 0, 1)[None])
        torch.testing.assert_close(found[row : row + 1], want, rtol=1e-4, atol=1e-4)


def test_crops():
    rows, columns = np.mgrid[:256, :300]
    picture = np.stack([rows, columns % 256, rows * 0], -1).astype(np.uint8)
    assert np.array_equal(centre_crop(picture, 224), picture[16:240, 38:262])  # 256 is the short side already
    for shape in [(500, 375), (100, 90), (31, 900)]:
        assert centre_crop(np.zeros((*shape, 3), np.uint8), 96).shape == (96, 96, 3)
    half = centre_crop(picture, 112)
    assert np.abs(half[..., 0].mean(1) - (16 + 2 * np.arange(112) + 0.5)).max() <= 1
    assert crop_size(Colours(1, size=(64, 48))) is None
    assert crop_size(Colours(1, size=(32, 65))) == 224


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 1])
def test_pictures_that_spoil_a_score_are_refused(workers):
    backbone = load_backbone("test_resnet")
    with pytest.raises(UserError, match=r"7\.png: cut short; a score needs every picture"):
        features(backbone, Colours(9, bad=(7,)), np.arange(9), size=None, workers=workers)
    mixed = Colours(3)
    mixed.read = lambda i: np.zeros((20 + i // 2, 30, 3), np.uint8)
    with pytest.raises(UserError, match=r"30x21 and 30x20 pixels .*size=N"):
        features(backbone, mixed, np.arange(3), size=None, workers=workers)
    assert len(features(backbone, mixed, np.arange(3), size=32, workers=workers)) == 3
    with pytest.raises(UserError, match=r"20x30 pixels are too small for convnext_atto: size=32 or more"):
        features(load_backbone("convnext_atto"), Colours(3, size=(30, 20)), np.arange(3), size=None, workers=workers)


# Labelled pictures


def test_folders_and_shards_hold_the_same(tmp_path):
    counts = {"train": 14, "test": 9}
    folders = write_folders(tmp_path / "folders", counts)
    shards = write_shards(tmp_path / "shards", counts)
    for seed, split in enumerate(counts):
        by_folder, by_shard = open_labelled(folders, split), open_labelled(shards, split)
        assert by_folder.classes == ("blue", "green", "red")
        assert by_shard.classes == Colours.names
        wanted = Colours(counts[split], seed=seed)
        for found in (by_folder, by_shard):
            assert found.labels.dtype == np.int64
            pairs = {(found.pictures.read(i).tobytes(), found.classes[k]) for i, k in enumerate(found.labels)}
            assert pairs == {(wanted.read(i).tobytes(), wanted.names[k]) for i, k in enumerate(wanted.labels)}
    assert held_out(folders) == held_out(shards) == "test"
    write_shards(shards, {"val": 3})
    assert held_out(shards) == "val"
    (shards / "classes.txt").unlink()
    assert open_labelled(shards, "train").classes == ("0", "1", "2")


def test_images_are_turned_as_in_pretraining_and_shown_so(tmp_path):
    (tmp_path / "train" / "a").mkdir(parents=True)
    file = tmp_path / "train" / "a" / "1.png"
    backbones = {"x": Backbone("test_resnet")}
    for turn in range(1, 9):
        file.write_bytes(turned(turn)["PNG, XMP element behind"])
        truth = np.array(ImageOps.exif_transpose(Image.open(file)))
        np.testing.assert_array_equal(open_labelled(tmp_path, "train").pictures.read(0), truth)
        np.testing.assert_array_equal(gallery._Read(str(tmp_path), backbones).read(0)["x"], truth)


def spoil(root, how):
    if how == "no test":
        for file in root.glob("test*"):
            file.rename(root / f"old-{file.name}")
    if how == "no train":
        (root / "train").rename(root / "training")
    if how == "no pictures":
        for file in (root / "test").rglob("*.png"):
            file.unlink()
    if how == "new class":
        (root / "test" / "red").rename(root / "test" / "pink")
    if how == "loose picture":
        (root / "train" / "loose.png").write_bytes(b"")
    if how == "empty class":
        (root / "train" / "pink").mkdir()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no test", r"(?s)nothing to score on.*expected:.*classes\.txt.*found:.*old-test.*train/  blue, green, red"),
        ("no train", r"(?s)neither train/ nor train-\*\.tar.*expected:.*train/CLASS/NAME"),
        ("no pictures", r"(?s)no pictures in test/.*expected:"),
        ("new class", r"test/ has what is no class folder of train/: pink"),
        ("loose picture", r"train/ has what is no class folder of train/: loose\.png"),
        ("empty class", r"class folders of train/ without pictures: pink"),
    ],
)
def test_wrong_folders_are_refused(tmp_path, how, message):
    root = write_folders(tmp_path / "mine", {"train": 12, "test": 12})
    spoil(root, how)
    with pytest.raises(UserError, match=message):
        [open_labelled(root, split) for split in ("train", held_out(root))]


def test_labels_beyond_the_classes_are_refused(tmp_path):
    root = write_shards(tmp_path / "mine", {"train": 12}, offset=1)
    with pytest.raises(UserError, match=r"classes\.txt names 3 classes, but .*\.tar/\d+\.png has label 3"):
        open_labelled(root, "train")


# The whole


class Means(Backbone):
    """Features that hold the picture's colour."""

    def __init__(self):
        nn.Module.__init__(self)
        self.name, self.in_chans, self.channels, self.strides, self.metadata = "means", 3, (3,), (4,), {}
        self.anchor = nn.Parameter(torch.zeros(1))

    def forward(self, image):
        return [nn.functional.avg_pool2d(image, 4)]


def test_evaluate_scores_what_the_features_hold():
    train, test = labelled(90), labelled(60, seed=1)
    result = evaluate(Means(), train, test)
    assert list(result.scores) == ["knn5", "knn20", "knn200", "linear"]
    assert set(result.scores.values()) == {1.0}
    assert result.pictures == (90, 60)
    assert result.top5 == {}
    turned = train._replace(labels=(train.labels + 1) % 3)
    assert set(evaluate(Means(), turned, test).scores.values()) == {0.0}


def test_top5_from_eleven_classes_on():
    rng = np.random.default_rng(0)
    for classes in (10, 11):
        many = labelled(40)._replace(labels=rng.integers(0, classes, 40), classes=tuple("abcdefghijk"[:classes]))
        result = evaluate(Means(), many, many, SHORT)
        assert sorted(result.top5) == (sorted(result.scores) if classes > 10 else [])
        assert all(result.top5[name] >= result.scores[name] for name in result.top5)


def test_few_pictures_are_a_seeded_choice():
    one, same, other = (evaluate(Means(), labelled(50), labelled(40), SHORT, most=(20, 9), seed=s) for s in (0, 0, 1))
    assert one.pictures == other.pictures == (20, 9)
    assert one.scores == same.scores
    seen = []
    pictures = Colours(50)
    read, pictures.read = pictures.read, lambda i: (seen.append(i), read(i))[1]
    evaluate(Means(), Labelled(pictures, pictures.labels, pictures.names), labelled(9), SHORT, most=(20, None), seed=4)
    assert set(seen) - {0} <= set(np.random.default_rng(4).permutation(50)[:20].tolist())


def test_wrong_input_is_refused(tmp_path):
    with pytest.raises(UserError, match="4 channels"):
        evaluate(Backbone("test_resnet", in_chans=4), labelled(9), labelled(9))
    with pytest.raises(UserError, match="a test picture has label 7, training has 3 classes"):
        evaluate(Means(), labelled(9), labelled(9)._replace(labels=np.full(9, 7)))
    broken = load_backbone("test_resnet")
    nn.init.constant_(next(broken.parameters()), torch.nan)
    with pytest.raises(UserError, match="features aren't finite"):
        evaluate(broken, labelled(9), labelled(9))
    data = write_shards(tmp_path / "data", {"train": 6, "test": 6})
    args = ["--data", str(data), "--workers", "0"]
    with pytest.raises(UserError, match="resnet18"):
        main(["resnet_18", *args])
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="results can't be written"):
        main(["test_resnet", *args, "--out", str(tmp_path / "file" / "out")])
    for wrong in (["--train", "1"], ["--seed", "-1"], ["test_resnet"]):
        with pytest.raises(SystemExit):
            main(["test_resnet", *args, *wrong])


def test_command_on_folders_writes_beside_a_run(tmp_path, capsys):
    data, run = write_folders(tmp_path / "colours", {"train": 30, "val": 12}), tmp_path / "mine"
    backbone = load_backbone("convnext_atto", seed=5)
    save_backbone(run / "backbone.safetensors", backbone, mean=(0.5,) * 3, std=(0.2,) * 3, method="vicreg", step=7)
    assert main([str(run), "--data", str(data), "--workers", "0", "--device", "cpu", "--seed", "2"]) == 0
    (folder,) = (run / "classification").iterdir()
    assert folder.name == f"colours-linear_features-{protocols.digest(LINEAR_FEATURES)}-seed2"
    results = json.loads((folder / "results.json").read_text())
    assert results["protocol"]["hash"] == protocols.digest(LINEAR_FEATURES)
    assert results["protocol"]["settings"] == json.loads(json.dumps(LINEAR_FEATURES.settings()))
    assert results["data"]["train"] == {"split": "train", "pictures": 30}
    assert results["data"]["test"] == {"split": "val", "pictures": 12}
    assert (results["backbone"]["method"], results["backbone"]["step"], results["seed"]) == ("vicreg", 7, 2)
    again = evaluate(load_backbone(str(run)), open_labelled(data, "train"), open_labelled(data, "val"), seed=2)
    assert results["scores"] == again.scores
    printed = capsys.readouterr().out
    assert "| | 5-NN | k-NN 20 | k-NN 200 | linear |" in printed
    assert f"| mine | {' | '.join(f'{100 * s:.1f}' for s in again.scores.values())} |" in printed
    assert (
        f"linear_features [{protocols.digest(LINEAR_FEATURES)}] on colours (30 train, 12 val pictures), seed 2"
        in printed
    )


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_command_on_shards_compares_backbones(tmp_path, capsys):
    data, out = write_shards(tmp_path / "data", {"train": 30, "test": 20}), tmp_path / "out"
    few = ["--train", "20", "--test", "10", "size=32"]
    args = ["convnext_atto", "test_resnet", "--data", str(data), "--out", str(out), *few]
    assert main([*args, "--workers", "2"]) == 0
    printed = capsys.readouterr().out
    assert "with size=32 [" in printed
    names = ["convnext_atto-random", "test_resnet-random"]
    assert sorted(file.name for file in out.iterdir()) == ["comparison.json", *names]
    first = [json.loads((out / name / "results.json").read_text()) for name in names]
    assert first[0]["data"]["test"] == {"split": "test", "pictures": 10}
    gains = [second - score for score, second in zip(*(each["scores"].values() for each in first), strict=True)]
    compared = json.loads((out / "comparison.json").read_text())
    assert list(compared["differences"]["test_resnet (random)"]["scores"].values()) == gains
    cells = " | ".join(f"{100 * gain:+z.1f}" for gain in gains)
    assert f"| test_resnet (random) minus convnext_atto (random) | {cells} |" in printed
    assert "one seed, so no interval: another seed or pretraining may differ by more" in printed
    assert main([*args[1:], "--workers", "0"]) == 0
    assert json.loads((out / "results.json").read_text())["scores"] == first[1]["scores"]
