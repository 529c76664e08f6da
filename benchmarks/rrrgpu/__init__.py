"""What benchmarks/gpu.py consists of; imports torch and numpy, and nothing of this project."""
