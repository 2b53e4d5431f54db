"""Speeds that are claimed, each with its peers measured in the same run."""
