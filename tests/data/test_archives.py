import base64
import errno
import shutil
import zipfile
from types import SimpleNamespace

import py7zr
import pytest

from lib.core.errors import Stop
from lib.core.hashes import Memo
from lib.core.records import Archive, Asset
from lib.core.run import Run
from lib.data import archives, assets

FILES = {"facade/images/a.jpg": b"photograph" * 300, "facade/cameras.txt": b"1 PINHOLE", "other/b.jpg": b"not wanted"}
ASSET = Asset(
    "scenes", "licensed", files={"facade/**/*": ""}, how_to_get="from the page",
    archives=(
        Archive("facade_photographs.7z", ("facade/images/*", "facade/cameras.txt"), within="all.7z"),
        Archive("facade_depth.7z", ("facade/depth/*",), size_bytes=804_000_000, required=False),
    ),
)  # fmt: skip


def write_7z(path, files):
    with py7zr.SevenZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(content, name)


def write_zip(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)


WRITERS = {".7z": write_7z, ".zip": write_zip}


@pytest.fixture
def memo(tmp_path):
    return Memo(tmp_path / "hashes.json")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "scenes").mkdir()
    return tmp_path / "scenes"


def unpack(file, folder, memo):
    archives.unpack(file, archives.contents(file, ASSET.files), folder, memo)


def listing(folder):
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("suffix", WRITERS)
def test_wanted_files_arrive_and_no_others(folder, memo, suffix):
    file = folder / f"all{suffix}"
    WRITERS[suffix](file, FILES)
    assert archives.contents(file, ASSET.files) == {"facade/images/a.jpg": 3000, "facade/cameras.txt": 9}
    unpack(file, folder, memo)
    assert listing(folder) == {"facade/images/a.jpg", "facade/cameras.txt", file.name, "unpacked.json"}
    assert (folder / "facade/images/a.jpg").read_bytes() == FILES["facade/images/a.jpg"]


@pytest.mark.parametrize("suffix", WRITERS)
def test_names_that_begin_with_the_folder_itself_are_the_same_names(folder, memo, suffix):
    """bsdtar writes an archive of "." so: its files were passed over, and its entry "./" ended in a traceback."""
    file = folder / f"all{suffix}"
    WRITERS[suffix](file, {f"./{name}": content for name, content in FILES.items()})
    if suffix == ".zip":
        with zipfile.ZipFile(file, "a") as archive:
            archive.writestr("./", "")
            archive.writestr("./facade/", "")
    assert archives.contents(file, ASSET.files) == {"facade/images/a.jpg": 3000, "facade/cameras.txt": 9}
    unpack(file, folder, memo)
    assert (folder / "facade/images/a.jpg").read_bytes() == FILES["facade/images/a.jpg"]
    assert archives.is_unpacked(file, folder, memo)


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize(
    "name", ["../facade/a.jpg", "facade/../../a.jpg", "/facade/a.jpg", "facade\\..\\a.jpg", "C:/facade/a.jpg"]
)
def test_entry_that_leads_out_of_the_folder_is_refused(folder, memo, suffix, name):
    file = folder / f"evil{suffix}"
    with_placeholder(file, suffix, name)
    with pytest.raises(Stop, match=r"evil.*is refused: its entry .* leads out of the folder"):
        unpack(file, folder, memo)
    assert listing(folder.parent) == {f"scenes/{file.name}"}


def with_placeholder(file, suffix, name):
    """py7zr's writer refuses such names itself, so one of the same length is replaced in the (not packed) header."""
    if suffix == ".zip":
        return write_zip(file, FILES | {name: b"out"})
    stand_in = "x" * len(name)
    with py7zr.SevenZipFile(file, "w") as archive:
        archive.set_encoded_header_mode(False)
        archive.writestr(b"out", stand_in)
    renamed = bytearray(file.read_bytes())
    at = renamed.index(stand_in.encode("utf-16-le"))
    renamed[at : at + 2 * len(name)] = name.encode("utf-16-le")
    seal(renamed)
    file.write_bytes(renamed)


def seal(archive):
    """Makes the check sums of a 7z right again: of the header at its end, and of the start that points to it."""
    import zlib

    offset, size = (int.from_bytes(archive[at : at + 8], "little") for at in (12, 20))
    archive[28:32] = zlib.crc32(archive[32 + offset : 32 + offset + size]).to_bytes(4, "little")
    archive[8:12] = zlib.crc32(archive[12:32]).to_bytes(4, "little")


def test_link_is_refused(folder, memo, tmp_path):
    (tmp_path / "link").symlink_to("/etc/hostname")
    with py7zr.SevenZipFile(folder / "a.7z", "w") as archive:
        archive.write(tmp_path / "link", "facade/link")
    linked = zipfile.ZipInfo("facade/link")
    linked.external_attr = 0o120777 << 16
    write_zip(folder / "b.zip", {linked: "/etc/hostname"})
    for name in ("a.7z", "b.zip"):
        with pytest.raises(Stop, match=f"{name} is refused: its entry 'facade/link' is a link"):
            unpack(folder / name, folder, memo)
    assert not (folder / "facade").exists()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_name_that_comes_twice_is_refused(folder, memo):
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.writestr("facade/a", "one")
        archive.writestr("facade/a", "two")
    with pytest.raises(Stop, match="'facade/a' comes twice"):
        unpack(folder / "a.zip", folder, memo)


@pytest.mark.parametrize("suffix", WRITERS)
def test_damaged_archive_is_named_and_leaves_nothing(folder, memo, suffix):
    file = folder / f"facade_photographs{suffix}"
    WRITERS[suffix](file, FILES)
    whole = file.read_bytes()
    for damaged in (
        whole[: len(whole) // 2],
        whole[:40] + bytes([whole[40] ^ 0xFF]) + whole[41:],
        b"",
        b"not an archive" * 50,
    ):
        file.write_bytes(damaged)
        with pytest.raises(Stop, match=f"facade_photographs{suffix} is corrupt"):
            unpack(file, folder, memo)
        assert listing(folder) == {file.name}


def test_size_that_the_archive_does_not_keep_is_found(folder, memo):
    write_7z(folder / "a.7z", FILES)
    wanted = archives.contents(folder / "a.7z", ASSET.files)
    with pytest.raises(Stop, match=r"a\.7z is corrupt: cameras\.txt has 9 bytes, the archive declares 10"):
        archives.unpack(folder / "a.7z", wanted | {"facade/cameras.txt": 10}, folder, memo)
    assert listing(folder) == {"a.7z"}


def test_full_disk_is_no_corrupt_archive(folder, memo, monkeypatch):
    write_zip(folder / "a.zip", FILES)

    def full(*arguments, **named):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "extractall", full)
    with pytest.raises(OSError, match="No space left"):
        unpack(folder / "a.zip", folder, memo)
    assert listing(folder) == {"a.zip"}


def test_archive_is_unpacked_once_and_again_when_its_files_are_gone(folder, memo):
    write_7z(folder / "a.7z", FILES)
    assert not archives.is_unpacked(folder / "a.7z", folder, memo)
    unpack(folder / "a.7z", folder, memo)
    assert archives.is_unpacked(folder / "a.7z", folder, memo)
    (folder / "facade/cameras.txt").write_text("shorter")
    assert not archives.is_unpacked(folder / "a.7z", folder, memo)


def test_another_file_of_the_same_name_is_not_overwritten(folder, memo):
    write_7z(folder / "a.7z", FILES)
    (folder / "facade").mkdir()
    (folder / "facade/cameras.txt").write_text("mine")
    with pytest.raises(Stop, match=r"a\.7z holds another cameras\.txt than"):
        unpack(folder / "a.7z", folder, memo)
    assert (folder / "facade/cameras.txt").read_text() == "mine" and not (folder / "facade/images").exists()


def test_interrupted_unpacking_is_done_again(folder, memo, monkeypatch):
    write_7z(folder / "a.7z", FILES)
    with monkeypatch.context() as patched:
        patched.setattr(archives, "write_record", lambda path, value: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            unpack(folder / "a.7z", folder, memo)
    assert not archives.is_unpacked(folder / "a.7z", folder, memo)
    unpack(folder / "a.7z", folder, memo)
    assert archives.is_unpacked(folder / "a.7z", folder, memo)


# ---------------------------------------------------------------------------------------------- in step 2


def bring(tmp_path, *inputs):
    recipe = SimpleNamespace(name="toy", assets=lambda config: [ASSET])
    return assets.fetch_all(Run(tmp_path / "root", "r"), recipe, None, inputs, lambda: False)[0]


def test_missing_archives_are_listed_and_placed_ones_used(tmp_path, capsys):
    assert bring(tmp_path).missing == ("facade_photographs.7z or all.7z",)
    folder = tmp_path / "root/data/toy/scenes"
    folder.mkdir(parents=True)
    write_7z(folder / "all.7z", FILES)
    assert set(bring(tmp_path).files) == {"facade/images/a.jpg", "facade/cameras.txt"}
    assert "absent, but not needed: facade_depth.7z (804 MB)" in capsys.readouterr().out


def test_archive_below_the_inputs_is_found_by_name_and_not_moved(tmp_path):
    place = tmp_path / "input" / "someone" / "eth3d"
    place.mkdir(parents=True)
    write_zip(place / "facade_photographs.zip", FILES)
    write_zip(place / "holiday.zip", {"facade/holiday.jpg": b"private"})
    made = bring(tmp_path, tmp_path / "input")
    assert made.path == tmp_path / "root/data/toy/scenes" and set(made.files) == {
        "facade/images/a.jpg",
        "facade/cameras.txt",
    }
    assert listing(tmp_path / "input") == {"someone/eth3d/facade_photographs.zip", "someone/eth3d/holiday.zip"}


def test_what_was_unpacked_is_not_unpacked_again_and_a_damaged_note_of_it_is(tmp_path, capsys):
    folder = tmp_path / "root/data/toy/scenes"
    folder.mkdir(parents=True)
    write_7z(folder / "all.7z", FILES)
    said = []
    for damage in (False, False, True):
        note = folder / archives.UNPACKED
        note.write_bytes(note.read_bytes().replace(b'"files"', b'"filed"')) if damage else None
        bring(tmp_path)
        said.append(capsys.readouterr().out.count("unpacking"))
    assert said == [1, 0, 1] and archives.is_unpacked(folder / "all.7z", folder, Memo(tmp_path / "hashes.json"))


def test_no_space_is_said_before_anything_is_unpacked(tmp_path, monkeypatch):
    folder = tmp_path / "root/data/toy/scenes"
    folder.mkdir(parents=True)
    write_7z(folder / "all.7z", FILES)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(Stop, match="GB are free"):
        bring(tmp_path)
    assert listing(folder) == {"all.7z"}


def test_an_encrypted_archive_is_called_so(folder, memo):
    with py7zr.SevenZipFile(folder / "a.7z", "w", password="secret") as archive:
        archive.writestr(b"photograph", "facade/images/a.jpg")
    with pytest.raises(Stop, match=r"a\.7z is encrypted"):
        unpack(folder / "a.7z", folder, memo)


FOUND = [  # by tests.fuzz_coverage, in base 85
    (
        "H+sCUCma9-%Fw9HkpKVy000006aWAK000003<DTP;0w0^A6)=B8VW>-"
        "T@M!2QJ$E#UNn^uO4&F4CL)vIBSI>(gunpcKx_bFT>t=qGY75@(0HHxpE(emZTo6mM#zjKWkfJQMW{#51FP{SfAFt>B7wH~$a&J1S&=v"
        "WjEva0v&K)%(`SmwHzCDB-R}>o(}_=ZxOqeel6=qT9gXIay5f~?cEnDjVBi1%02c-)0SRgV2MYlJ0U;p)7z}Ly00"
    ),  # AssertionError of py7zr
    (
        "H+sCUCma9-%Fw9HkpKVy000006aWAK000003<DTP;0w0^A6)=B8VW>-O%E2-"
        "QJ$E#UNn^uO4&F4CL)vIBSI>(|NsC0|Ns97T>t=qG6${?(0Bj<0DusjZTo6mM#zjKWkfJQMW{y41FP{SfAFt>B7w;HdA8D)S&=vWjEva"
        "0v&K)%(`SmwHzCDB-R}>o(}_=ZxTi!1l6=qT9gXIWy5f~?cEnDjVBi1%02c-)0SRgV2MYlJ0U;p)7z}Ly00"
    ),  # AttributeError of py7zr
    (
        "H+sCUCma9-%Fw9HkpKVy000006aWAK000003<DTP;0w0^A6)=B8VW>-O%E2-"
        "QJ$E#UNn^uO4&F4CL)vIBSI>(|NsC0|Ns97T>t=qGY75<(0HHxpE(em?fYt6M#zjKWkfJQMW{y41FP{SfAFt>B7w;HdA8D)S&=vWjEva"
        "0vlzVG_!Vs#vUSBm-R}>o(}_=ZxTi!1l6=qT9gXIWy5f~?cEnDjVBi1%02c-)0SRgV2MYlJ0U;p)7z}Ly00"
    ),  # AttributeError of py7zr
]


@pytest.mark.parametrize("content", FOUND, ids=["start positions", "no streams", "no folders"])
def test_what_py7zr_takes_for_its_own_mistake_is_damage(folder, memo, content):
    (folder / "a.7z").write_bytes(base64.b85decode(content))
    with pytest.raises(Stop, match=r"a\.7z is corrupt"):
        archives.unpack(folder / "a.7z", archives.contents(folder / "a.7z", ["facade/**/*"]), folder, memo)


@pytest.mark.parametrize("error", [OSError(errno.EINVAL, "Invalid argument"), OSError("Invalid data stream")])
def test_what_decompressors_call_an_error_of_the_system_is_damage(folder, error):
    write_zip(folder / "a.zip", FILES)
    with pytest.raises(Stop, match=r"a\.zip is corrupt: (it points outside of itself|Invalid data stream)"):
        with_error(folder / "a.zip", error)
    with pytest.raises(PermissionError):
        with_error(folder / "a.zip", PermissionError(errno.EACCES, "no"))


def with_error(file, error):
    with archives.opened(file):
        raise error
