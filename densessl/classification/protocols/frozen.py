"""Protocols that leave the backbone as it is."""

from densessl.classification.protocols.base import Augmented, Neighbours, Probe, Sweep

LINEAR_FEATURES = Probe(
    name="linear_features",
    source="5-NN and linear probe as in W-MSE (https://arxiv.org/abs/2007.06346; batches of 1000 and ties to the lower "
    "class are its code's), but on standardised features, which makes one learning rate fit every backbone; weighted "
    "k-NN as in DINO (https://arxiv.org/abs/2104.14294)",
    size=None,
    nearest=5,
    weighted=(20, 200),
    temperature=0.07,
    epochs=500,
    batch=1000,
    lr=1e-2,
    end_lr=1e-6,
    weight_decay=5e-6,
)

KNN = Neighbours(
    name="knn",
    source="weighted k-NN as in DINO (https://arxiv.org/abs/2104.14294), also VICReg's; plain 5-NN as in W-MSE "
    "(https://arxiv.org/abs/2007.06346)",
    size=None,
    nearest=5,
    weighted=(10, 20, 100, 200),
    temperature=0.07,
)

LINEAR_SWEEP = Sweep(
    name="linear_sweep",
    source="densessl: SGD as in linear_augmented, but on standardised features of pictures without augmentation, "
    "computed once; neighbours as in knn",
    size=None,
    nearest=KNN.nearest,
    weighted=KNN.weighted,
    temperature=KNN.temperature,
    lrs=(1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0),
    momentum=0.9,
    weight_decay=1e-6,
    epochs=100,
    batch=256,
    held_out=0.1,
)

LINEAR_AUGMENTED = Augmented(
    name="linear_augmented",
    source="VICReg, evaluate.py (https://github.com/facebookresearch/vicreg), which has lr=0.02 and scores the best "
    "epoch on the test pictures; here the last one. VICRegL has 0.02 for ResNet, 0.3 for ConvNeXt, Barlow Twins 0.3, "
    "MoCo 30: here held-out training pictures choose",
    size=None,
    lrs=(0.01, 0.02, 0.05, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
    momentum=0.9,
    weight_decay=1e-6,
    epochs=100,
    batch=256,
    held_out=0.05,
    scale=(0.08, 1.0),
    flip=0.5,
)
