"""What the benchmarks share: taking turns, intervals, the machine, cached engines, peak rates, servers, charts."""
