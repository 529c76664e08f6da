"""Folders of images: which file is taken, its class, its part of the split."""
