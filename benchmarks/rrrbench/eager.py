"""A checkpoint in plain PyTorch, as its users run it before they meet an engine."""

import torch

from rrrnet.checkpoint import Checkpoint, read_weights
from rrrnet.network.ensemble import RRRNet


def load_eager(checkpoint: Checkpoint) -> RRRNet:
    """The network with the checkpoint's weights, in eval mode, contiguous in memory."""
    model = RRRNet(checkpoint.architecture)
    weights = {name: torch.from_numpy(array) for name, array in read_weights(checkpoint).items()}
    model.load_state_dict(weights, strict=False)  # num_batches_tracked, which eval mode does not read, is not kept
    return model.eval()
