"""LMDB's own troubles: a full map, a corrupt file, a second opening, a wrong URL."""

from pathlib import Path

import pytest

from flyball.errors import Invalid, NotFound, Unavailable
from flyball.stores.online import open_online, pack_key
from flyball.testing.online import VIEW, Row, batch, rows_of


def rows(count: int) -> list[Row]:
    return [(f"N{at % 50}", at, at, 0, float(at)) for at in range(count)]


def test_a_full_map_grows_and_the_batch_arrives_whole(tmp_path: Path) -> None:
    store = open_online(f"lmdb:{tmp_path}/online?map_bytes=131072")
    assert store.append(VIEW, batch(rows(20_000))) == 20_000
    assert len(rows_of(store, "N7")) == 400
    store.close()


def test_one_process_may_open_a_store_for_reading_and_for_writing(tmp_path: Path) -> None:
    writer = open_online(f"lmdb:{tmp_path}/online")
    writer.append(VIEW, batch(rows(10)))
    writer.close()
    reader = open_online(f"lmdb:{tmp_path}/online", readonly=True)
    assert len(rows_of(reader, "N3")) == 1
    again = open_online(f"lmdb:{tmp_path}/online")
    again.append(VIEW, batch(rows(60)))
    assert len(rows_of(reader, "N3")) == 2
    again.close()
    again.close()
    assert len(rows_of(reader, "N3")) == 2
    reader.close()


@pytest.mark.parametrize("damage", [b"", b"not a database" * 1000, "cut"])
def test_a_corrupt_file_is_said_to_be_with_what_to_do(tmp_path: Path, damage: bytes | str) -> None:
    store = open_online(f"lmdb:{tmp_path}/online")
    store.append(VIEW, batch(rows(5000)))
    store.close()
    file = tmp_path / "online" / "data.mdb"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2] if isinstance(damage, str) else damage)
    if damage == b"":  # an empty file is how LMDB begins
        assert rows_of(open_online(f"lmdb:{tmp_path}/online"), "N3") == []
        return
    with pytest.raises(Unavailable) as error:
        open_online(f"lmdb:{tmp_path}/online", readonly=True)
    assert "corrupt" in error.value.what
    assert "--rebuild" in error.value.hint


def test_a_wrong_url_names_what_would_do() -> None:
    with pytest.raises(NotFound, match="known: lmdb"):
        open_online("rocks://localhost")
    for wrong in ("nothing", "lmdb:", "lmdb:x?map=3"):
        with pytest.raises(Invalid):
            open_online(wrong)


def test_other_columns_under_the_same_name_are_refused(tmp_path: Path) -> None:
    import numpy as np

    from flyball.stores.online import Rows

    store = open_online(f"lmdb:{tmp_path}/online")
    store.append(VIEW, batch(rows(10)))
    one = np.zeros(1, dtype=np.int64)
    with pytest.raises(Invalid, match="1 columns, not 2"):
        store.append(VIEW, Rows([pack_key(("UA",))], one, one, one, one, np.zeros((1, 2))))
    store.close()


def test_no_key_begins_another() -> None:
    keys = [
        ("U",),
        ("UA",),
        ("U", "A"),
        (1,),
        (1, 1),
        ("1",),
        (True,),
        ("",),
        ("x" * 1000,),
        ("x" * 1001,),
        (-1,),
        (10**12,),
    ]
    packed = [pack_key(key) for key in keys]
    assert len(set(packed)) == len(keys)
    assert not any(a != b and b.startswith(a) for a in packed for b in packed)
    assert max(map(len, packed)) < 480
