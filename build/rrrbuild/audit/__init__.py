"""What answers give away about the images that a network was trained on: membership inference, from probabilities."""
