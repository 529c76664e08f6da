"""The paper's networks: a backbone (ResNet50, 101, 152), its first blocks, and members as branches."""
