"""The paper's methods over many data sets and seeds: each training is a cell with a file; one table at the end."""
