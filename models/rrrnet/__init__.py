"""Images to a trained reduced ensemble (RRR-Net, arXiv 2310.01157).

Data flow: `dataset` (or `glyphs`) -> `preprocess` -> `resnet` (reuse) -> `reduce` -> `branches` (recycle)
-> `ensemble` -> `train` -> `checkpoint` -> `inference`. Importing this package imports nothing heavy.
"""

__version__ = "0.1.0"
