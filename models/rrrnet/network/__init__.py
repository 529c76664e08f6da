"""The paper's networks: ResNet152, its first blocks, and members as branches."""
