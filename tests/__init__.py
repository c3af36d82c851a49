"""Tests in four layers: unit, golden, kernel (root), e2e."""
