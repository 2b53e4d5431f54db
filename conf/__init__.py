"""The configuration files: Hydra groups of YAML, a package so that they work from a wheel or a zip too."""
