"""The publisher's side of the registry (`edgeline[publish]`): release, sign, promote, maintain.

Needs `cryptography` for signing, and no TensorFlow: promotion is done from any laptop.
"""
