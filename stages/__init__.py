"""The stages: one module each, with REVISION, REASONS, Config, judge and run. See corpus/engine.py for the contract."""
