"""Sweeps of learning rates and fine-tuning: against loops written out, and the command end to end."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from test_classification import Means, labelled, noise, write_folders, write_shards
from torch.nn import functional as F

from densessl.backbone_file import load_backbone
from densessl.classification import sweep as module
from densessl.classification.crops import Batches, RandomCrops
from densessl.classification.evaluation import evaluate
from densessl.classification.finetune import fine_tune
from densessl.classification.protocols import find_protocol
from densessl.classification.sweep import hold_out, sweep, sweep_crops
from densessl.commands.eval_cls import main
from densessl.errors import UserError

FEW = ["batch=8", "epochs=3", "weight_decay=0.01"]


def trained_alone(x, y, batches, protocol, lr, classes, seed):
    """Weights (C, classes) and biases after SGD in float64, by its equations; ``batches`` of each epoch."""
    first = torch.randn(x.shape[-1], classes, generator=torch.Generator().manual_seed(seed)).double().numpy()
    p, v = [0.01 * first, np.zeros(classes)], [0.0, 0.0]
    for epoch, batch in batches:
        now = lr * (1 + math.cos(math.pi * epoch / protocol.epochs)) / 2
        rows, labels = x[batch], y[batch]
        logits = rows @ p[0] + p[1]
        share = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        error = (share - np.eye(classes)[labels]) / len(rows)
        for i, gradient in enumerate((rows.T @ error, error.sum(0))):
            v[i] = protocol.momentum * v[i] + gradient + protocol.weight_decay * p[i]
            p[i] = p[i] - now * v[i]
    return p


def layers_of(monkeypatch):
    """What is trained, instead of what it is chosen for."""
    monkeypatch.setattr(module.Layers, "choose", lambda self, *held_out: self)


def test_each_rate_is_trained_as_if_alone(monkeypatch):
    layers_of(monkeypatch)
    protocol = find_protocol("linear_sweep", [*FEW, "lrs=[0.001, 0.1, 0.5]", "held_out=0.2"])
    train, labels, test, _ = noise(41, 5, 6, 4)
    layers = sweep(train, labels, test, 4, protocol, seed=3)
    kept, held_out = hold_out(41, 0.2, 3)
    assert len(held_out) == 8
    assert sorted([*kept, *held_out]) == list(range(41))
    order, batches = torch.Generator().manual_seed(3), []
    for epoch in range(3):
        batches += [(epoch, kept[part]) for part in np.array_split(torch.randperm(33, generator=order).numpy(), 5)]
    x = train.double().numpy()
    x = (x - x.mean(0)) / x.std(0, ddof=1)
    for lr, weights, biases in zip(protocol.lrs, layers.weights, layers.biases, strict=True):
        want = trained_alone(x, labels.numpy(), batches, protocol, lr, 4, 3)
        np.testing.assert_allclose(weights.detach().numpy(), want[0], atol=1e-5)
        np.testing.assert_allclose(biases.detach().numpy(), want[1], atol=1e-5)


def test_rates_on_crops_are_trained_as_if_alone(monkeypatch):
    layers_of(monkeypatch)
    protocol = find_protocol("linear_augmented", [*FEW, "lrs=[0.02, 3]"])
    train, backbone = labelled(20), load_backbone("test_resnet", seed=1)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    kept = np.array([1, 2, 5, 6, 7, 11, 12, 13, 17, 18])
    options = {"side": 32, "seed": 4, "workers": 0}
    width = backbone.channels[-1]
    layers = sweep_crops(backbone, train, kept, (), torch.zeros(1, width), protocol, **options)
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
    mean, std = (np.array(backbone.metadata[key])[:, None, None] for key in ("mean", "std"))
    crops, x, y, batches = RandomCrops(train, 32, protocol, 4), [], [], []
    for keys in Batches(kept, 8, 3, 4):
        batches.append((keys[0][0], list(range(len(x), len(x) + len(keys)))))
        for key in keys:
            crop, label = crops[key]
            image = torch.from_numpy((crop.numpy() / 255.0 - mean) / std).float()[None]
            with torch.no_grad():
                x.append(backbone.net.eval()(image)[0].double().numpy())
            y.append(label)
    assert len(x) == 30
    for lr, weights in zip(protocol.lrs, layers.weights, strict=True):
        want = trained_alone(np.stack(x), np.array(y), batches, protocol, lr, 3, 4)
        np.testing.assert_allclose(weights.detach().numpy(), want[0], rtol=1e-3, atol=1e-4)


def test_the_best_on_held_out_pictures_is_taken():
    x, y, z, truth = noise(300, 200, 12, 3)
    train, test = (f + 4 * F.one_hot(label, 12) for f, label in ((x, y), (z, truth)))
    protocol = find_protocol("linear_sweep", ["epochs=5", "lrs=[1e-9, 0.1, 1e-8]"])
    votes, why = sweep(train, y, test, 3, protocol, 0)
    assert why["lr"] == 0.1
    assert list(why["held_out"]) == ["1e-09", "0.1", "1e-08"]
    assert why["held_out_pictures"] == 30
    alone, same = sweep(train, y, test, 3, dataclasses.replace(protocol, lrs=(0.1,)), 0)
    torch.testing.assert_close(votes, alone)
    assert same["held_out"]["0.1"] == why["held_out"]["0.1"] > 0.9 > why["held_out"]["1e-09"]
    assert (votes.argmax(1) == truth).double().mean() > 0.95
    # A score by hand: the held-out labels turned, what was right is wrong.
    _, held_out = hold_out(300, 0.1, 0)
    turned = y.clone()
    turned[held_out] = (y[held_out] + 1) % 3
    worse = sweep(train, turned, test, 3, dataclasses.replace(protocol, lrs=(0.1,)), 0)[1]["held_out"]["0.1"]
    assert worse <= 1 - why["held_out"]["0.1"]
    with pytest.raises(UserError, match=r"held_out=0\.9 of 3 .* leaves none"):
        hold_out(3, 0.9, 0)


@pytest.mark.filterwarnings("ignore:.*encountered")
def test_a_rate_that_diverges_leaves_the_others():
    train, labels, test, _ = noise(60, 10, 5, 3)
    protocol = find_protocol("linear_sweep", [*FEW, "lrs=[0.1]"])
    votes, why = sweep(train, labels, test, 3, protocol, 0)
    both, reasons = sweep(train, labels, test, 3, dataclasses.replace(protocol, lrs=(1e38, 0.1)), 0)
    torch.testing.assert_close(both, votes)
    assert reasons["held_out"] == {"1e+38": 0.0, "0.1": why["held_out"]["0.1"]}
    with pytest.raises(UserError, match=r"diverged at every learning rate, 1e\+38"):
        sweep(train, labels, test, 3, dataclasses.replace(protocol, lrs=(1e38,)), 0)


@pytest.mark.parametrize("name", ["linear_sweep", "linear_augmented"])
def test_what_is_chosen_never_saw_the_test_pictures(name):
    train, test = labelled(60), labelled(30, seed=1)
    protocol = find_protocol(name, ["epochs=3", "held_out=0.3"])
    result = evaluate(Means(), train, test, protocol)
    turned = evaluate(Means(), train, test._replace(labels=(test.labels + 1) % 3), protocol)
    other = evaluate(Means(), train, labelled(20, seed=2), protocol)
    assert result.fitted == turned.fitted == other.fitted
    assert result.fitted["lr"] in protocol.lrs
    assert result.fitted["held_out_pictures"] == 18
    best = max(result.fitted["held_out"].values())
    assert result.fitted["held_out"][str(result.fitted["lr"])] == best
    assert turned.scores["linear"] <= 1 - result.scores["linear"]


def test_fine_tuning_is_plain_torch_and_works_on_a_copy():
    train, protocol = labelled(20), find_protocol("semi_1", [*FEW, "momentum=0.5", "lr_head=0.3"])
    rows = np.array([0, 3, 4, 8, 9, 10, 12, 13, 16, 19, 15])
    backbone = load_backbone("test_resnet", seed=2).requires_grad_(False)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    tuned, layer, loss = fine_tune(backbone, train, rows, protocol, side=32, seed=5, workers=0)
    assert not backbone.training
    assert not any(p.requires_grad for p in backbone.parameters())
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())

    net = load_backbone("test_resnet", seed=2).net.train()
    first = 0.01 * torch.randn(3, backbone.channels[-1], generator=torch.Generator().manual_seed(5))
    head = [first.requires_grad_(), torch.zeros(3, requires_grad=True)]
    groups = [(0.3, head), (0.03, list(net.parameters()))]
    speed = {p: torch.zeros_like(p) for _, part in groups for p in part}
    crops, losses = RandomCrops(train, 32, protocol, 5), []
    mean, std = (torch.tensor(backbone.metadata[key]).view(3, 1, 1) for key in ("mean", "std"))
    for keys in Batches(rows, 8, 3, 5):
        images, labels = zip(*(crops[key] for key in keys), strict=True)
        x = torch.stack([(image / 255 - mean) / std for image in images])
        logits = net(x) @ head[0].T + head[1]
        loss_now = -logits.log_softmax(1)[range(len(keys)), list(labels)].mean()
        losses.append(loss_now.item())
        gradients = torch.autograd.grad(loss_now, list(speed))
        slowed = (1 + math.cos(math.pi * keys[0][0] / 3)) / 2
        rates = {p: lr * slowed for lr, part in groups for p in part}
        with torch.no_grad():
            for p, gradient in zip(speed, gradients, strict=True):
                speed[p] = 0.5 * speed[p] + gradient + 0.01 * p
                p -= rates[p] * speed[p]
    assert len(losses) == 6
    assert loss == pytest.approx(sum(losses[-2:]) / 2, rel=1e-4)
    torch.testing.assert_close(layer.weight, head[0], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(layer.bias, head[1], rtol=1e-3, atol=1e-5)
    for key, value in net.state_dict().items():  # BatchNorm's statistics too
        torch.testing.assert_close(tuned.net.state_dict()[key], value, rtol=1e-3, atol=1e-4)
    assert not torch.equal(tuned.net.bn1.running_mean, backbone.net.bn1.running_mean)


def test_fine_tuning_that_goes_wrong_is_refused():
    train, backbone = labelled(20), load_backbone("test_resnet")
    options = {"side": 32, "seed": 0, "workers": 0}
    wild = find_protocol("semi_1", ["lr_backbone=1e20", "batch=8"])
    with pytest.raises(UserError, match=r"loss became (nan|inf) in step \d of 60: lower lr_backbone=1e\+20"):
        fine_tune(backbone, train, np.arange(20), wild, **options)
    single = find_protocol("semi_1", ["batch=1"])
    with pytest.raises(UserError, match="two pictures a batch; there are 20, batch=1"):
        fine_tune(backbone, train, np.arange(20), single, **options)
    with pytest.raises(UserError, match="28x28 pixels are too small for convnext_atto"):
        evaluate(load_backbone("convnext_atto"), labelled(9, size=(28, 40)), labelled(9, size=(28, 40)), single)


def test_fine_tuning_learns_and_leaves_the_backbone():
    backbone = load_backbone("test_resnet", seed=0).train()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    protocol = find_protocol("semi_10", ["fraction=0.5", "batch=10", "lr_backbone=0.1", "scale=[0.5, 1]"])
    result = evaluate(backbone, labelled(120), labelled(60, seed=1), protocol)
    assert backbone.training
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
    assert result.pictures == (60, 60)
    assert list(result.scores) == ["fine_tuned"]
    assert result.scores["fine_tuned"] > 0.8
    assert math.isfinite(result.fitted["loss"])


def test_only_the_chosen_pictures_are_read():
    train, seen = labelled(50), []
    read, train.pictures.read = train.pictures.read, lambda i: (seen.append(i), read(i))[1]
    for name in ("semi_1", "linear_augmented", "linear_sweep", "knn"):
        seen.clear()
        protocol = find_protocol(name, ["epochs=2"] if name != "knn" else [])
        result = evaluate(Means(), train, labelled(9, seed=1), protocol, rows=np.array([7, 11, 30, 41]))
        assert result.pictures == (4, 9)
        assert {7, 11, 30, 41} <= set(seen) <= {0, 7, 11, 30, 41}  # the first tells the size
    part = find_protocol("knn", ["fraction=0.1"])
    assert evaluate(Means(), train, labelled(9, seed=1), part, most=(40, None)).pictures == (4, 9)
    assert list(result.scores) == ["knn5", "knn10", "knn20", "knn100", "knn200"]


def test_command_takes_a_list(tmp_path, capsys):
    data = write_folders(tmp_path / "colours", {"train": 40, "val": 12})
    names = sorted(path.name for path in (data / "train").rglob("*.png"))[:20]
    (tmp_path / "half.txt").write_text("\n".join(names))
    args = ["test_resnet", "--data", str(data), "--workers", "0", "--protocol", "semi_1"]
    args += ["epochs=2", "batch=10", "--subset", str(tmp_path / "half.txt")]
    assert main([*args, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "semi_1 with epochs=2, batch=10 [" in printed
    assert "(20 train listed in half.txt [" in printed
    assert "| | fine-tuned |" in printed
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["protocol"]["deviations"] == ["epochs=2", "batch=10"]
    assert results["data"]["train"]["pictures"] == 20
    assert results["data"]["train"]["subset"].startswith("half.txt [")
    assert list(results["scores"]) == ["fine_tuned"]
    (tmp_path / "half.txt").write_text("none.png\n")
    with pytest.raises(UserError, match=r"half\.txt: 1 of 1 names .*none\.png \(line 1\)"):
        main(args)


@pytest.mark.parametrize("name", ["linear_sweep", "linear_augmented", "semi_10", "knn"])
def test_command_on_shards(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    data = write_shards(tmp_path / "data", {"train": 40, "test": 12})
    few = ["fraction=0.5", *(["epochs=2", "batch=10"] if name != "knn" else [])]
    few += ["lrs=[1e-9, 0.05]"] if name.startswith("linear") else []
    assert main(["test_resnet", "--data", str(data), "--workers", "0", "--protocol", name, *few]) == 0
    printed = capsys.readouterr().out
    assert "(20 train drawn, 50 % and equally many of each class, 12 test pictures)" in printed
    (file,) = Path("checkpoints").rglob("results.json")
    results = json.loads(file.read_text())
    assert results["protocol"]["name"] == name in file.parent.name
    if name.startswith("linear"):
        assert list(results["fitted"]["held_out"]) == ["1e-09", "0.05"]
        assert "| linear |" in printed or "linear | learning rate |" in printed
        assert f"{results['fitted']['lr']:g}: the lowest or highest rate that was tried" in printed
