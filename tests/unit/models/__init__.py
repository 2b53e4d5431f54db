"""Tests of dlspark.models."""
