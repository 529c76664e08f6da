"""The paper's methods over many data sets and seeds: each training a cell with a file of its own, one table at the end."""
