"""The simulator and builders for tests. Nothing imports it but tests."""
