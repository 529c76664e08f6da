"""An engine folder: engine files and `manifest.json`, which says everything about them and seals them."""

from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from rrrbuild.confidence.record import Confidence
from rrrnet import sealed
from rrrnet.checkpoint import SPLIT
from rrrnet.errors import UsageError
from rrrnet.images.preprocess import Preprocess
from rrrnet.network.architecture import Architecture

MANIFEST = "manifest.json"
FORMAT_VERSION = 1
REMEDY = "build it again with rrr build, or restore it from a copy"
MAX_BATCH = 256
# Tensor names in every engine.
INPUT = "images"
OUTPUT = "probabilities"
# The second output of an engine that was built with --embed: (N, D) float32, each row of length 1.
EMBEDDING = "embedding"
# What an engine file is named by: the whole network, or a part of plan `split`.
MODEL = "model"
STEM = "stem"
# The parts of plan `cascade`.
FIRST = "first"
REST = "rest"
# The tensor between the stem and the members in plans `split` and `cascade`.
FEATURES = "features"
# What a build leaves beside the engine files for people and for later builds; no runtime opens them.
BUILD_LOG = "build.log"
TIMING_CACHE = "timing.cache"
ENGINE_INFO = "engine.json"
_RECORDS = (BUILD_LOG, TIMING_CACHE, ENGINE_INFO, SPLIT)


def member_part(index: int) -> str:
    """Name of a member's part of plan `split`: `member_0`, `member_1`, ..."""
    return f"member_{index}"


def how_to_embed(target: str) -> str:
    """What to do about an engine without embeddings, with the command."""
    return f"build it with rrr build CHECKPOINT --target {target} --embed"


@dataclass(frozen=True)
class BatchRange:
    """Batch sizes an engine takes: `min` to `max`, tuned for `opt`."""

    min: int
    opt: int
    max: int

    def __post_init__(self) -> None:
        if not 1 == self.min <= self.opt <= self.max <= MAX_BATCH:
            raise UsageError(
                f"batch sizes are {self.min},{self.opt},{self.max}: give three ascending numbers MIN,OPT,MAX of which "
                f"the first is 1 (a server meets single images) and the last at most {MAX_BATCH}, e.g. --batch 1,8,32"
            )

    @classmethod
    def parse(cls, text: str) -> "BatchRange":
        """Read "1,8,32".

        Raises:
            UsageError: not three ascending numbers that begin with 1.
        """
        words = text.split(",")
        if len(words) != 3 or not all(word.strip().isdecimal() for word in words):
            alone = f"; for at most {text} that is --batch 1,{text},{text}" if text.isdecimal() else ""
            raise UsageError(f"--batch is {text!r}: give three numbers MIN,OPT,MAX, e.g. --batch 1,8,32{alone}")
        low, optimal, high = (int(word) for word in words)
        return cls(low, optimal, high)

    def sizes(self) -> tuple[int, ...]:
        """The distinct sizes, ascending."""
        return tuple(sorted({self.min, self.opt, self.max}))


@dataclass(frozen=True)
class Manifest:
    """What an engine folder says about itself.

    Attributes:
        path: the folder.
        name: the checkpoint's name; served models take it.
        target: a name of the table of targets.
        family: the runtime's Python package.
        precision: of weights and activations.
        plan: how the members are executed; the fastest over all batch sizes where several plans are kept.
        architecture: the network's shape.
        labels: class names, in the order of the outputs.
        preprocess: how images become inputs.
        batch: sizes it takes.
        inputs: name, dtype and shape of each input; -1 stands for the batch.
        outputs: the same of each output.
        versions: of everything that took part in the build.
        device: CPU and GPU it was built on, and what it was built for.
        verified: errors and accuracies against PyTorch, or False where it could not be run.
        unverified_reason: why `verified` is False; empty otherwise.
        latency_ms: measured at the engine, by plan and batch size; empty where it could not be run.
        checkpoint: name, method and SHA-256 (of its sealed document) of the source.
        data: the data set that the checkpoint was trained on (name, path, sha256), or None.
        command: the command line that built it.
        files: digest and size of each file; those of several plans lie in folders named by the plan.
        plan_by_batch: the plan for each measured batch size, and those up to it, where several plans are kept.
        features: name, dtype and shape of the tensor between stem and members where plan `split` or `cascade` is kept.
        quantisation: how an INT8 engine was calibrated and, for each plan, quantised; None for other precisions.
        cascade: for plan `cascade` its `k`, `tau` and `order`, what they were chosen by and what they cost.
        cascade_reason: why there is no cascade; empty where there is one.
        confidence: temperatures, scores of sets and references of drift; None where none were fitted.
        confidence_reason: why they were not; empty where they were.
    """

    path: Path
    name: str
    target: str
    family: str
    precision: str
    plan: str
    architecture: Architecture
    labels: tuple[str, ...]
    preprocess: Preprocess
    batch: BatchRange
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    versions: dict[str, str]
    device: dict[str, Any]
    verified: dict[str, Any] | Literal[False]
    unverified_reason: str
    latency_ms: dict[str, dict[str, Any]]
    checkpoint: dict[str, str]
    data: dict[str, Any] | None
    command: str
    files: dict[str, dict[str, Any]]
    plan_by_batch: dict[str, str] = field(default_factory=dict)
    features: dict[str, Any] | None = None
    quantisation: dict[str, Any] | None = None
    cascade: dict[str, Any] | None = None
    cascade_reason: str = ""
    confidence: Confidence | None = None
    confidence_reason: str = ""

    @property
    def kept_plans(self) -> tuple[str, ...]:
        """The plans whose files the folder holds, the overall fastest first."""
        return tuple(dict.fromkeys((self.plan, *self.plan_by_batch.values())))

    @property
    def embedding_dim(self) -> int | None:
        """D of the output `embedding`; None where the engine was built without one."""
        return next((output["shape"][1] for output in self.outputs if output["name"] == EMBEDDING), None)

    @property
    def engine_bytes(self) -> int:
        """The engine's size: all that a deployment has to carry to run it, and nothing else.

        Records of the build, whatever plan's folder they lie in, and the manifest itself do not count.
        """
        engine = [entry for name, entry in self.files.items() if PurePosixPath(name).name not in _RECORDS]
        return sum(entry["size_bytes"] for entry in engine)


def to_document(manifest: Manifest) -> dict[str, Any]:
    """The manifest as JSON holds it, without its place and the digests."""
    document = {key: value for key, value in vars(manifest).items() if key not in ("path", "files")}
    return document | {
        "architecture": manifest.architecture.to_json(),
        "labels": list(manifest.labels),
        "preprocess": manifest.preprocess.to_json(),
        "batch": asdict(manifest.batch),
        "confidence": None if manifest.confidence is None else manifest.confidence.to_json(),
    }


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write `manifest.json` into `folder` (see `sealed.staged`) and seal it with all that lies there."""
    sealed.seal(folder, MANIFEST, {"format_version": FORMAT_VERSION, **to_document(manifest)})


def read_engine(path: Path) -> Manifest:
    """Check every digest of the engine folder at `path`, then read its manifest. Nothing of the engine is parsed.

    Raises:
        ArtifactError: not an engine, damaged, or of a format this version does not know.
    """
    document = sealed.read_sealed(path, MANIFEST, remedy=REMEDY)
    command = f"rrr build CHECKPOINT --target TARGET --out {path}"
    sealed.check_format(path / MANIFEST, document, version=FORMAT_VERSION, command=command)
    with sealed.describing(path / MANIFEST, remedy=REMEDY):
        del document["seal"], document["format_version"]
        document |= {
            "architecture": Architecture.from_json(document["architecture"]),
            "labels": tuple(document["labels"]),
            "preprocess": Preprocess.from_json(document["preprocess"]),
            "batch": BatchRange(**document["batch"]),
            "confidence": Confidence.from_json(document.get("confidence")),
        }
        return Manifest(path=path.absolute(), **document)
