"""What `rrr advise` measures and says: which smaller network would do for one's own, and how much faster it is."""
