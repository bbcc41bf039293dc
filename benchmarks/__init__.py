"""Measurements, which are not tests."""
