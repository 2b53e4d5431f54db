"""The configuration files: Hydra groups of YAML, found as a package so that they work from a wheel or a zip."""
