"""What other libraries call the tensors of a ResNet."""

_LAYERS = {"conv": "convolution", "bn": "normalization"}


def by_transformers(name: str) -> str:
    """The name in transformers' `ResNetForImageClassification` of one of torchvision's."""
    block, _, rest = name.partition(".")
    if block == "fc":
        return f"classifier.1.{rest}"
    if block in ("conv1", "bn1"):
        return f"resnet.embedder.embedder.{_LAYERS[block[:-1]]}.{rest}"
    index, kind, last = rest.split(".", 2)
    prefix = f"resnet.encoder.stages.{int(block[-1]) - 1}.layers.{index}"
    if kind == "downsample":
        number, _, last = last.partition(".")
        return f"{prefix}.shortcut.{('convolution', 'normalization')[int(number)]}.{last}"
    return f"{prefix}.layer.{int(kind[-1]) - 1}.{_LAYERS[kind[:-1]]}.{last}"
