"""The simulator and builders for tests. Only tests import it."""
