"""The TFLite variants that exist, by name: plain data, quick to import."""

# What each variant's quantization is, in words, as it goes on record.
VARIANTS = {
    "float32": "none: float32 weights",
    "float16": "float16 weights, computed in float32",
    "dynamic": "int8 weights, activations quantized as they come",
    "int8": "int8 throughout, float32 input and output",
    "int8_io": "int8 throughout, uint8 input and output",
    "int16x8": "int8 weights, int16 activations, float32 input and output",
    "int8_selective": "int8, except the layers that cost the most accuracy, which stay float32",
}

# Which variants serve which aim.
PRESETS = {
    "default": ("float32", "float16"),
    "storage": ("float16", "dynamic", "int8"),
    "speed": ("float16", "int8"),
}
