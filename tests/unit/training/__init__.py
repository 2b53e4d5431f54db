"""Tests of dlspark.training."""
