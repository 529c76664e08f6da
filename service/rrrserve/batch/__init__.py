"""Many images to one table: `rrr predict FOLDER --out FILE`, by an engine here, a service, or a Ray cluster."""
