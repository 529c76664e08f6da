"""What `rrr advise` measures and says: which of the smaller networks would do for one's own, and how much faster it is."""
