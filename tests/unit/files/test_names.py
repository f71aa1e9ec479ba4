"""Owners of what is sent."""

from __future__ import annotations

import grp
import os
import pwd

from gexec.files.names import OwnerNames


def test_names_of_owners_and_none_of_unknown_ones() -> None:
    names = OwnerNames()
    for _ in range(2):  # looked up, remembered
        assert names.user(0) == os.fsencode(pwd.getpwuid(0).pw_name)
        assert names.group(0) == os.fsencode(grp.getgrgid(0).gr_name)
        assert names.user(3_999_999_999) == b""
        assert names.group(3_999_999_999) == b""
