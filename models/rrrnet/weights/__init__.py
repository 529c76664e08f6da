"""What a network starts from: files of other trainers, the hub, a checkpoint, or nothing."""
