"""Tests of dlspark.inspection."""
