"""`rrr report`: everything that is known about a model on one page, from its sealed artifacts and result files."""
