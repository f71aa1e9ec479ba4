"""The checks of a result: each looks at the outcome of one rank, that no captured relay could reach."""

from __future__ import annotations

from laboratory.checks import attached, expected, honesty, output, stalls, starts, stdin, strict, truth

ALL = (
    starts.at_end,
    truth.at_end,
    output.at_end,
    stdin.at_end,
    strict.at_end,
    honesty.at_end,
    stalls.at_end,
    expected.at_end,
    attached.at_end,
)
