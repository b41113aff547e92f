"""Tests against real tools."""
