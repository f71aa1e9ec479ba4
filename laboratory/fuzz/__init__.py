"""Fuzzing of everything that parses bytes from outside: `make fuzz`.

``targets`` has one target for each parser, ``run`` drives libFuzzer (atheris) over them, and ``corpora`` has
the inputs that reached new code, one directory for each target; a unit test runs all of them. A finding is
kept there, too.
"""
