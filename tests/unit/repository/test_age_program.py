"""What a slot for age carries, opened by the ``age`` program itself, and keys of its making used by us."""

from __future__ import annotations

import shutil
import subprocess
from base64 import b64decode, b64encode
from pathlib import Path

import pytest

from pghaven.repository.keyset import make_first_key
from pghaven.repository.keyslot import Slot, SlotKind, carry_to_age, open_with_age
from pghaven.repository.keytext import Access, find_age_identities
from tests.support.waiting import PATIENCE_SECONDS

pytestmark = pytest.mark.skipif(shutil.which("age") is None, reason="the program age is not installed")


def run_age(*words: str, standard_input: bytes = b"") -> bytes:
    return subprocess.run(
        list(words), input=standard_input, capture_output=True, check=True, timeout=PATIENCE_SECONDS
    ).stdout


def make_identity(path: Path) -> str:
    """A new identity in a file; its recipient."""
    run_age("age-keygen", "-o", str(path))
    return run_age("age-keygen", "-y", str(path)).decode().strip()


def test_the_program_opens_what_a_slot_carries_and_no_other_identity_does(tmp_path: Path) -> None:
    recipient = make_identity(tmp_path / "ours")
    make_identity(tmp_path / "other")
    key = make_first_key()
    sealed = b64decode(carry_to_age(key, [recipient])["age"])
    opened = run_age("age", "--decrypt", "-i", str(tmp_path / "ours"), standard_input=sealed)
    assert opened.decode() == key.render() + "\n"
    with pytest.raises(subprocess.CalledProcessError):
        run_age("age", "--decrypt", "-i", str(tmp_path / "other"), standard_input=sealed)


def test_what_the_program_sealed_is_opened_with_its_own_file_of_identities(tmp_path: Path) -> None:
    recipient = make_identity(tmp_path / "ours")
    key = make_first_key()
    sealed = run_age("age", "--encrypt", "-r", recipient, standard_input=key.render().encode())
    carried = {"recipients": [recipient], "age": b64encode(sealed).decode()}
    identities = find_age_identities((tmp_path / "ours").read_text())
    slot = Slot(name="age", kind=SlotKind.AGE, access=Access.READER, public=b"", added_at="", carried=carried)
    assert open_with_age(slot, identities) == key.render()
