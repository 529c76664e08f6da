"""Images to a trained checkpoint: recipes, time, balance, validation, going on."""
