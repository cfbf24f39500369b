"""The linear probe: one layer trained on cached features."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from densessl.classification.protocols import Probe

ROUNDING = 1e-5  # of a channel's size: what varies less is noise of float32, which standardising would blow up


def probe(train: Tensor, labels: Tensor, test: Tensor, protocol: Probe, seed: int) -> Tensor:
    """(M, classes) logits of ``test`` (M, C) from a layer trained on ``train`` (N, C) with ``labels`` (N,) int64.

    As in W-MSE (https://arxiv.org/abs/2007.06346): Adam, whose learning rate falls exponentially by epochs, on features
    of pictures without augmentation. Unlike there, features are standardised with the mean and standard deviation of
    ``train`` first. ``seed`` decides first weights and order.
    """
    train, test = standardised(train, test)
    with torch.random.fork_rng([train.device] if train.is_cuda else []):
        torch.manual_seed(seed)
        layer = nn.Linear(train.shape[1], int(labels.max()) + 1).to(train.device)
        optimizer = torch.optim.Adam(layer.parameters(), protocol.lr, weight_decay=protocol.weight_decay)
        fall = (protocol.end_lr / protocol.lr) ** (1 / protocol.epochs)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, fall)
        for _ in range(protocol.epochs):
            order = torch.randperm(len(train)).to(train.device)
            for rows in order.tensor_split(-(-len(train) // protocol.batch)):  # of nearly equal size
                loss = cross_entropy(layer(train[rows]), labels[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            schedule.step()
    return layer(test).detach()


def standardised(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Both with the mean and standard deviation of ``train``; channels that are constant there become 0."""
    mean, std = train.mean(0), train.std(0)
    std[std <= ROUNDING * train.square().mean(0).sqrt()] = torch.inf
    return (train - mean) / std, (test - mean) / std
