"""Empty values of arguments: an unset variable is not the default."""

from __future__ import annotations

from argparse import Namespace

import pytest

from gexec.cli.values import refuse_empty
from gexec.errors import UsageError


@pytest.mark.parametrize("options", [{"audit_log": ""}, {"audit_log": ["x", ""]}])
def test_an_empty_value_is_refused_with_its_name(options: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=r"^audit-log: the value is empty"):
        refuse_empty(Namespace(count=0, dir=None, **options))


def test_what_is_absent_or_may_be_empty_is_none() -> None:
    options = Namespace(count=0, dir=None, flag=False, names=[], arguments=[""])
    refuse_empty(options, "arguments")
    with pytest.raises(UsageError, match=r"^arguments: "):
        refuse_empty(options)
