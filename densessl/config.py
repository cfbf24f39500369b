"""The configuration: one strict schema, read from YAML and overridden by key=value.

Nothing heavy is imported here, so that a wrong key is refused in a moment.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from os import fsencode
from os.path import expanduser, isfile
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    create_model,
    model_validator,
)

from densessl import checks
from densessl.config_errors import explain
from densessl.config_file import Value, flat, parse_override, read_values, shown, write_values
from densessl.errors import UserError
from densessl.files import printable
from densessl.method_source import method_arguments, method_crops, method_names
from densessl.timm_names import check_name

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, le=1e9)]  # so that products of some stay numbers of 32 bits
Count = Annotated[int, Field(ge=1, le=10**9)]
Width = Annotated[int, Field(ge=1, le=2**20)]  # what a method counts: widths, prototypes, places in a queue
Factor = Annotated[float, Field(ge=0, le=10)]
Hue = Annotated[float, Field(ge=0, le=0.5)]  # share of a turn
Threads = Annotated[int, Field(ge=1, le=1024)]
Numbers = Annotated[
    tuple[float, ...], BeforeValidator(lambda value: (value,) if isinstance(value, int | float) else value)
]
Probe = Literal["linear", "dense_knn", "knn"]


def _writable(text: str) -> str:
    if re.search("[\0\ud800-\udc7f\udd00-\udfff]", text):  # the others stand for bytes that are not UTF-8
        raise ValueError("holds a character that no name of a file has")
    return text


Text = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_writable)]


def _file(value: Any) -> str:
    """Pydantic's own texts are UTF-8, which names of files need not be."""
    if not isinstance(value, str) or not 0 < len(value) <= 4096:
        raise ValueError(f"the name of a file or folder is needed, got {shown(value)}")
    return expanduser(_writable(value))


def _in_utf8(name: str) -> str:
    try:
        fsencode(name).decode()
    except UnicodeDecodeError:
        raise ValueError(f"{printable(name)} is not UTF-8, and safetensors reads nothing from such a folder") from None
    return name


File = Annotated[str, PlainValidator(_file)]

_PACKAGE = Path(__file__).parent
# In a wheel the configurations lie in the package, in a checkout beside it.
MISTAKES = 10  # of one configuration that are told at a time
CONFIGS = next((p for p in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if p.is_dir()), _PACKAGE)


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class BackboneConfig(Section):
    name: Annotated[Text, AfterValidator(check_name)]  # timm's name of a ConvNeXt or ResNet
    in_chans: Count = 3
    stem: Literal["imagenet", "small"] = "imagenet"  # small, of ResNets: 3 x 3 without pooling, for pictures of 32 px
    drop_path: Share = 0.0
    checkpointing: bool = False  # compute the activations within a block again in the backward, instead of keeping them
    init: File | None = None  # start from a backbone file or any checkpoint of the same network


class DataConfig(Section):
    path: File  # a folder of pictures, a text file of paths, tar shards here or behind a URL, hf:FOLDER, or scenes
    workers: int = Field(default=4, ge=0, le=1024)
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[Positive, ...] = (0.229, 0.224, 0.225)
    range: tuple[tuple[float, float], ...] = ()  # stored values that are black and white: one pair, or one a channel
    percentiles: tuple[float, float] | None = None  # or those of each picture's own channel, such as [1, 99]
    nodata: Numbers = ()  # stored values that stand for nothing, such as -9999: black, and in no percentile
    upright: bool = True  # turn images as their EXIF or XMP says
    unreadable: Share = 0.05  # share of pictures that may be unreadable before the run stops

    @model_validator(mode="after")
    def _scaled(self) -> DataConfig:
        if self.range and self.percentiles:
            raise ValueError("range and percentiles both say what is black and white; give one of them")
        for low, high in (*self.range, *([self.percentiles] if self.percentiles else [])):
            if not low < high:
                raise ValueError(f"[{low}, {high}] must be [black, white] with black below white")
        if self.nodata and not (self.range or self.percentiles):
            raise ValueError(
                f"nodata={list(self.nodata)} is of stored values that range or percentiles make black and white of; "
                "give one of them too"
            )
        if self.percentiles and not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            raise ValueError(f"percentiles={list(self.percentiles)} must lie between 0 and 100")
        return self


class CropsConfig(Section):
    count: int = Field(ge=0, le=256)
    size: int = Field(ge=16, le=4096)  # pixels; half a dozen cells are too few to match anything
    scale: tuple[Positive, Positive]  # share of the picture's area

    @model_validator(mode="after")
    def _ordered(self) -> CropsConfig:
        if not self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale {list(self.scale)} must be [smallest, largest] with largest at most 1")
        return self


class ViewsConfig(Section):
    large: CropsConfig
    small: CropsConfig = CropsConfig(count=0, size=96, scale=(0.08, 0.4))
    flip: Share = 0.5  # left to right
    flip_vertical: Share = 0.0  # of pictures without an up, such as those from above
    turn: float = Field(default=0.0, ge=0, le=180)  # degrees, the largest, either way; 180 is any


class ChannelsConfig(Section):
    """Photometrics of pictures whose channels are no colours; values are shares of black to white."""

    p: Share = 0.8  # of gain, offset and gamma together
    gamma: Factor = 0.3  # all alike to the power of exp(-gamma) to exp(gamma), then
    gain: Share = 0.4  # every channel times 1 - gain to 1 + gain
    offset: Share = 0.1  # and plus -offset to offset
    noise_p: Share = 0.2
    noise: Share = 0.05  # largest deviation of normal noise
    drop_p: Share = 0.1  # one channel, where there are several, becomes its mean


class PhotometricConfig(Section):
    """Probabilities and strengths of VICReg's and VICRegL's code; pairs are (even view, odd view)."""

    jitter: tuple[Factor, Factor, Factor, Hue] = (0.4, 0.4, 0.2, 0.1)  # brightness, contrast, saturation, hue
    jitter_p: Share = 0.8
    grey_p: Share = 0.2
    blur_p: tuple[Share, Share] = (1.0, 0.1)
    blur_sigma: tuple[Positive, Positive] = (0.1, 2.0)
    solarize_p: tuple[Share, Share] = (0.0, 0.2)
    where: Literal["workers", "device", "auto"] = "auto"  # auto: on the device if that is a GPU
    kind: Literal["colour", "channels", "auto"] = "auto"  # auto: colour of three channels of 8 bits
    channels: ChannelsConfig = ChannelsConfig()  # of kind channels, in the place of jitter, grey and solarise

    def colours(self, channels: int, scaled: bool) -> bool:
        """Whether views of so many channels, with ``data.range`` or percentiles or not, are changed as colours are."""
        return self.kind == "colour" or (self.kind == "auto" and channels == 3 and not scaled)


class OptimConfig(Section):
    name: Literal["adamw", "adam", "lars", "sgd"]
    base_lr: Positive  # times batch / 256
    weight_decay: float = Field(ge=0, le=1e9)  # in the gradient, but for adamw
    warmup: Share  # share of the run
    start_lr: Share = 0.0  # share of the peak at which warm-up begins
    end_lr: Share = 0.001  # share of the peak that is left at the end of the cosine
    drops: tuple[Share, ...] = ()  # instead of the cosine: at these shares of the run
    drop: Positive = 0.2  # the learning rate is multiplied by this
    vector_lr: Positive = 1.0  # learning rate of 1-D parameters, relative to the rest
    backbone_lr: Positive = 1.0  # learning rate of the backbone, relative to the rest
    heads_first: Share = 0.0  # share of the run at whose beginning the backbone's weights stay as they came
    constant: tuple[str, ...] = ()  # parts of the method whose learning rate stays at the peak, as predictor
    decay_all: bool = False  # 1-D parameters are decayed, and adapted by lars, like the rest
    momentum: Share = 0.9  # lars, sgd
    nesterov: bool = False  # sgd
    trust: Positive = 0.001  # lars
    betas: tuple[Share, Share] = (0.9, 0.999)  # adam, adamw
    clip: float = Field(default=0.0, ge=0)  # largest norm of the gradient; 0 is off

    @model_validator(mode="after")
    def _possible(self) -> OptimConfig:
        shares = [self.warmup, *self.drops]
        if shares != sorted(set(shares)):
            raise ValueError(f"drops={shares[1:]} are shares of the run and must increase, after warmup={shares[0]}")
        if self.nesterov and (self.name != "sgd" or not self.momentum):
            raise ValueError(f"nesterov=true with name={self.name}, momentum={self.momentum}: sgd with momentum has it")
        if max(self.betas) == 1:
            raise ValueError(f"betas={list(self.betas)} must be below 1: at 1 nothing new is ever averaged in")
        return self


class ProbesConfig(Section):
    """Small evaluations while training (docs/probes.md); none without labels."""

    masks: File | None = None  # pictures with masks in a layout that eval-seg takes, for linear and dense_knn
    classes: File | None = None  # pictures with classes in a layout that eval-cls takes, for knn
    kinds: tuple[Probe, ...] = ("linear", "dense_knn", "knn")  # of these, those that have labels
    every: Annotated[float, Field(gt=0, le=1e6)] = 1.0  # epochs
    keep: Probe | None = None  # which decides what RUN/backbone_best.safetensors is; default: the first of kinds

    @property
    def running(self) -> tuple[Probe, ...]:
        return tuple(kind for kind in dict.fromkeys(self.kinds) if (self.classes if kind == "knn" else self.masks))

    @property
    def deciding(self) -> Probe:
        """Where any is running."""
        return self.keep or self.running[0]

    @model_validator(mode="after")
    def _labelled(self) -> ProbesConfig:
        for key, path, kinds in (("masks", self.masks, {"linear", "dense_knn"}), ("classes", self.classes, {"knn"})):
            if path and not kinds & set(self.kinds):
                raise ValueError(f"{key}={path} is for {' and '.join(sorted(kinds))}, of which kinds has none")
        if self.keep and self.keep not in self.running:
            labels = "classes" if self.keep == "knn" else "masks"
            raise ValueError(f"keep={self.keep} must be among kinds, and needs {labels}=FOLDER with labels")
        return self


class MethodConfig(BaseModel):
    """``name`` and the keyword-only arguments of that method's constructor."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str

    @property
    def arguments(self) -> dict[str, Any]:
        return {key: value for key, value in self if key != "name"}


class _Arguments(MethodConfig, Section):
    """The keyword-only arguments of one method; a class of it has them as fields."""


class Config(Section):
    name: Text  # of the configuration file
    run: Annotated[File, AfterValidator(_in_utf8)]  # the run folder
    method: MethodConfig
    backbone: BackboneConfig
    data: DataConfig
    views: ViewsConfig
    photometric: PhotometricConfig = PhotometricConfig()
    optim: OptimConfig
    probes: ProbesConfig = ProbesConfig()
    batch: int = Field(ge=2, le=2**20)  # pictures a step, over all processes; statistics over one picture mean nothing
    steps: Count | None = None  # length of the run: either steps
    epochs: Annotated[float, Field(gt=0, le=1e6)] | None = None  # or epochs
    seed: int = Field(default=0, ge=0, lt=2**32)
    micro_batch: Count | None = None  # pictures of a process that go through the network at a time; same loss, gradient
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 autocast where the hardware has it
    compile: bool = False  # the network's blocks, by torch.compile
    zero: Literal[0, 1, 2] = 0  # DeepSpeed's ZeRO stage
    timeout: Annotated[float, Field(ge=0.05, le=1e5)] = 10.0  # minutes after which who waits for another process ends
    threads: Threads | None = None  # CPU threads of a process; default: its share of the cores
    log_every: Count = 10  # steps
    log_to: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ("tensorboard",)  # beside RUN/metrics.jsonl
    health_every: Annotated[int, Field(ge=0, le=10**9)] = 50  # steps between measures of the embeddings; 0: none
    watched: Annotated[int, Field(ge=0, le=64)] = 4  # pictures whose features are kept at five steps, for the report
    save_every: Count = 500  # steps
    keep: Count = 2  # states: the newest, and others in case it is damaged
    max_skips: Count = 5  # steps in a row, not finite, that send the run back to its newest state
    keep_every: Count | None = None  # steps; the states after so many, twice as many, ... stay as well

    @model_validator(mode="after")
    def _possible(self) -> Config:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give the length of the run as steps or as epochs, one of them")
        if self.optim.name == "lars" and self.zero:
            raise ValueError(
                f"optim.name=lars with zero={self.zero}: ZeRO cuts weights into flat pieces, LARS needs whole layers; "
                "use zero=0, or optim.name=adamw"
            )
        if self.micro_batch and "resnet" in self.backbone.name:
            raise ValueError(
                f"micro_batch={self.micro_batch}: {self.backbone.name} has batch statistics, which would be those of "
                f"{self.micro_batch} pictures; backbone.checkpointing=true saves memory too, and keeps them"
            )
        if self.views.large.count < 2:
            raise ValueError(f"views.large.count={self.views.large.count}: two large crops or more are compared")
        checks.crops(self.method.name, method_crops(self.method.name), self.views.large.count, self.views.small.count)
        checks.widths(**self.method.arguments)
        small = self.views.small.size if self.views.small.count else None
        network, arguments = (self.backbone.name, self.backbone.stem), self.method.arguments
        checks.sizes(*network, self.method.name, self.views.large.size, small, arguments)
        if self.method.name in checks.CHECKS:
            checks.CHECKS[self.method.name](self.batch, **self.method.arguments)
        if self.optim.name == "adam" and self.optim.weight_decay and self.method.arguments.get("freeze"):
            raise ValueError(
                f"optim.name=adam with optim.weight_decay={self.optim.weight_decay}: the decay alone would move the "
                f"prototypes that method.freeze holds, by full steps; use optim.name=adamw, or optim.weight_decay=0"
            )
        for key in ("mean", "std"):
            if len(values := getattr(self.data, key)) != self.backbone.in_chans:
                raise ValueError(
                    f"data.{key} has {len(values)} values, backbone.in_chans is {self.backbone.in_chans}; "
                    "`tools/data.py check` tells those of your pictures"
                )
        if len(self.data.range) not in (0, 1, self.backbone.in_chans):
            raise ValueError(
                f"data.range has {len(self.data.range)} pairs; one for all or {self.backbone.in_chans} are needed, one "
                "a channel (backbone.in_chans)"
            )
        checks.upright(self.method.name, self.views.turn, self.views.flip_vertical, arguments.get("compat"))
        scaled = bool(self.data.range or self.data.percentiles)
        colours = self.photometric.colours(self.backbone.in_chans, scaled)
        checks.photometric(colours, self.photometric.where, self.backbone.in_chans, scaled)
        return self

    def length(self, pictures: int) -> int:
        """Steps of the run, with so many pictures to see."""
        return self.steps or max(1, round((self.epochs or 0) * (pictures // self.batch)))


def load_config(name: str, overrides: list[str] | None = None) -> Config:
    """The configuration ``name`` (of configs/, or a path to a YAML file) with key=value ``overrides`` on top.

    Raises UserError that names the key, where it stands and what would be right.
    """
    return load_with_sources(name, overrides)[0]


def load_with_sources(name: str, overrides: Sequence[str | Value] | None = None) -> tuple[Config, dict[str, str]]:
    """Also where each given value comes from: key path to "file:line" or "command line". The others are defaults."""
    path = find_config(name)
    texts = _texts(Config, "")
    given = read_values(path, texts)
    before = next((value.value for value in given if value.key == "method.name"), None)
    changes = [change if isinstance(change, Value) else parse_override(change, texts) for change in overrides or ()]
    changed = {value.key for value in changes}
    for length, other in (("steps", "epochs"), ("epochs", "steps")):
        if length in changed and other not in changed:  # one takes the other's place
            given = [value for value in given if value.key != other]
    sources = {"name": "name of the file", "run": "name of the file"}
    values: dict[str, Any] = {"name": path.stem, "run": f"checkpoints/{path.stem}"}
    for value in given + changes:
        _put(values, value)
        sources = {key: source for key, source in sources.items() if not key.startswith(f"{value.key}.")}
        sources |= dict.fromkeys([value.key, *flat({value.key: value.value})], value.source)
    section = values.get("method")
    if not isinstance(section, dict) or "name" not in section:
        raise UserError(f"method.name is missing in {path}: one of {', '.join(method_names())}")
    schema = create_model("Config", __base__=Config, method=(_method_schema(section["name"]), ...))
    try:
        config = schema.model_validate(values)
    except ValidationError as error:
        errors = error.errors()
        mistakes = explain(errors[: 10 * MISTAKES], sources, schema, section["name"], before)
        left = len(mistakes) - MISTAKES + len(errors[10 * MISTAKES :])
        more = [f"and {left} more"] if left > 0 else []
        raise UserError("\n".join(mistakes[:MISTAKES] + more)) from None
    return Config.model_validate(config.model_dump()), sources


def resolved_yaml(config: Config, sources: dict[str, str] | None = None) -> str:
    """The whole configuration as YAML, with a comment on each value of ``sources``; loading it gives the same one."""
    return write_values(config.model_dump(mode="json"), sources)


def find_config(name: str) -> Path:
    """The file of a name of configs/ or of a path."""
    names = sorted(p.stem for p in CONFIGS.glob("*.yaml"))
    if name in names:
        return CONFIGS / f"{name}.yaml"
    if isfile(name):  # which takes any text, as Path's doesn't
        return Path(name)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {near[0]}?" if near else "."
    given = name if name.isprintable() and len(name) < 200 else shown(name)
    raise UserError(f"--cfg {given}: neither a file nor a name{hint} Names: {', '.join(names)}")


def _method_schema(name: object) -> type[MethodConfig]:
    """The keyword-only arguments of a method's constructor; of none there is, a schema that refuses its name."""
    words = {"Literal": Literal, "Share": Share, "Positive": Positive, "Count": Width, "Width": Width}
    words |= {kind.__name__: kind for kind in (int, float, str, bool, tuple)}
    try:
        arguments = method_arguments(str(name), words)
        method_crops(str(name))
    except UserError as error:
        said = str(error)

        def refuse(_: object) -> str:
            raise ValueError(said)

        return create_model("No method", __base__=MethodConfig, name=(Annotated[Any, AfterValidator(refuse)], ...))
    fields: dict[str, Any] = {}
    for key, (kind, default) in arguments.items():
        some = kind == tuple[Width, ...] and default  # a network has a layer at least, unless it may be left out
        fields[key] = (Annotated[kind, Field(min_length=1)] if some else kind, default)
    return create_model(f"{name}'s arguments", __base__=_Arguments, **fields)


def _put(values: dict[str, Any], value: Value) -> None:
    *sections, last = value.key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise UserError(f"{value.key} ({value.source}): {section} is a value, not a section")
    values[last] = value.value


def _texts(schema: type[BaseModel], prefix: str) -> dict[str, bool]:
    """The keys whose values are names, and whether they may be missing."""
    found: dict[str, bool] = {}
    for name, field in schema.model_fields.items():
        kind: Any = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            found |= _texts(kind, f"{prefix}{name}.")
        elif kind in (str, Text | None, File | None):
            found[prefix + name] = kind is not str
    return found
