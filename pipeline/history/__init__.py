"""The history of a configuration's runs: what was run, with what, and what came of it."""
