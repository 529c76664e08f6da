"""Image bytes to the uint8 array that every engine takes: formats, decoding, size and crop."""
