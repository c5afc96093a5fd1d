"""Routing ops of the mixture-of-experts layer: `kernels.ops` is what the trainer calls, `kernels.reference` the definition.

No `__version__` here, on purpose: transformers probes an optional package named `kernels` by name and version, and a folder
without one is taken as absent.
"""
