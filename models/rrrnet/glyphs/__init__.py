"""Letters drawn to train on, in Meta-Album layout, in the manner of OmniPrint."""
