"""What a check finds in lists with planted defects, and what a run makes of them."""

import json
import shutil
import zlib

import numpy as np
import pytest

from launchers import train
from worklab.__main__ import main
from worklab.checking import KINDS, check_lists
from worklab.data_tools import find_lists
from worklab.image_files import inspect_image
from worklab.list_mending import mend_lists
from worklab.options import (
    CheckOptions,
    DataOptions,
    ReaderOptions,
    ScheduleOptions,
    SessionOptions,
)

from .defects import (
    PLANTED,
    UNREADABLE,
    encoded,
    make_defective_folder,
    saved,
    smooth,
)

LIMITS = CheckOptions(max_megapixels=0.2)  # so that a huge image is cheap here
NUM_UNREADABLE = sum(map(len, UNREADABLE.values()))


@pytest.fixture(autouse=True)
def _seeds():
    """Nothing here is Keras's but one run."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted") / "data"
    make_defective_folder(folder)
    return folder


@pytest.fixture(scope="module")
def result(folder):
    return check_lists(find_lists([folder]), LIMITS)


def found(result):
    """Return what was found as `PLANTED` has it: list and path by kind."""
    kinds = {}
    for finding in result.findings:
        name = " ".join(filter(None, (finding.split, finding.path)))
        kinds.setdefault(finding.kind, set()).add(name)
    return kinds


def test_every_planted_defect_is_named_and_nothing_else(result):
    assert sum(map(len, PLANTED.values())) == 34
    assert found(result) == {kind: set(names) for kind, names in PLANTED.items()}
    assert len(result.findings) == 34
    order = list(KINDS)
    assert [f.kind for f in result.findings] == sorted(
        (f.kind for f in result.findings), key=order.index
    )


def test_details_say_what_is_wrong(result):
    details = {finding.path: finding.detail for finding in result.findings}
    entries = {finding.path: finding.entry for finding in result.findings}
    assert details["gone.png"] == "No such file or directory"
    assert details["folder.png"] == "is a folder or a device, no file"
    assert details["cut.jpg"].startswith("truncated or damaged: begins as JPEG of 48x4")
    assert details["page.jpg"].startswith("no image, or cut short: 26 bytes beginning")
    assert details["grey-end.jpg"] == "Corrupt JPEG data: premature end of data segment"
    copy = f"train {entries['doubted-copy.png']} doubted-copy.png"
    assert details["doubted.png"] == (
        f"the same bytes as {copy}, labelled square, not circle"
    )
    assert details["leaked.png"].startswith("the same bytes as test 61 test-leak.png")
    assert details["near-leaked.png"] == "looks like test 62 test-near.jpg"
    assert details["copy.bmp"].startswith("the same pixels as train ")
    assert details["png.jpg"] == "is PNG, called .jpg"
    assert details["turned.jpg"] == "EXIF orientation 6"
    assert details["moving.gif"] == "3 frames or pages"
    assert details["tiny.png"] == "31x31 pixels"
    assert details["huge.png"] == "500x500 pixels"
    assert details["flat.png"] == "all about RGB (90, 90, 90)"
    assert details[None] == "1 of 3 classes have no image: cross"


def test_command_names_them_all(folder, tmp_path, capfd):
    path = tmp_path / "found.json"
    with pytest.raises(SystemExit) as error:
        main(["check", str(folder), "--json", str(path), "--max-megapixels", "0.2"])
    assert error.value.code == 1
    output, noise = capfd.readouterr()
    assert noise == ""  # what decoders say of bad files
    lines = output.splitlines()
    for kind, names in PLANTED.items():
        for name in names:
            split, _, image = name.partition(" ")
            assert any(
                line.startswith(f"{kind}: {split}") and f" {image}: " in line
                for line in lines
                if image
            ) or (not image and any(line.startswith(f"{kind}: ") for line in lines))
    assert "errors: 15, warnings: 19, images: 1327" in output
    content = json.loads(path.read_text())
    assert (content["num_errors"], content["num_warnings"]) == (15, 19)
    assert content["classes"]["valid"] == {"circle": 15, "square": 15, "cross": 0}
    assert {f["kind"] for f in content["findings"]} == set(PLANTED)
    first = content["findings"][0]
    assert first["severity"] == "error"
    assert first["path"] == "gone.png"
    assert "`--data.on-bad-file skip`" in first["then"]


def options_of(folder, run, on_bad_file):
    return train.Options(
        run=run,
        num_steps=20,
        network="tests.conftest:TinyNetwork",
        pretrained=None,
        data=DataOptions(folder=folder, on_bad_file=on_bad_file),
        reader=ReaderOptions(image_size=(8, 8), batch_size=128),
        schedule=ScheduleOptions(learning_rate=0.01),
        session=SessionOptions(num_threads=1),
    )


def test_training_that_skips_ends_and_reports_them(folder, tmp_path):
    result = train.main(options_of(folder, tmp_path / "run", "skip"))
    skipped = {f"train {name}" for name in result["skipped"]["train"]}
    assert skipped == set().union(*UNREADABLE.values())
    assert len(skipped) == NUM_UNREADABLE


def test_training_that_stops_names_the_first(folder, tmp_path):
    names = [n.split()[1] for names in UNREADABLE.values() for n in names]
    match = "|".join(name.replace(".", r"\.") for name in names)
    with pytest.raises(ValueError, match=rf"({match})`.* Received: "):
        train.main(options_of(folder, tmp_path / "run", "stop"))


def test_fixed_lists_are_clean_and_the_old_ones_are_kept(folder, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    shutil.copy(folder / "../outside.png", tmp_path)
    before = (copy / "train.json").read_text()
    arguments = ["check", str(copy), "--max-megapixels", "0.2"]
    main([*arguments, "--fix"])
    output = capsys.readouterr().out
    backup = copy / "train.json.before-check"
    assert (
        f"{copy / 'train.json'}: entries taken off: 15; as it was: {backup}" in output
    )
    assert backup.read_text() == before
    assert not (copy / "test.json.before-check").exists()
    removed = set(json.loads(before)) - set(
        json.loads((copy / "train.json").read_text())
    )
    errors = [k for k in PLANTED if KINDS[k].is_error]
    assert {f"train {name}" for name in removed} == {
        name for kind in errors for name in PLANTED[kind]
    }
    main(arguments)  # warnings alone
    assert "errors: 0, warnings: 19, images: 1312" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*arguments, "--strict"])
    # What was `near` before its lists were mended is found again, and nothing else.
    main([*arguments, "--fix"])
    assert "entries taken off" not in capsys.readouterr().out


# Lists


@pytest.fixture
def small(tmp_path):
    """Return a function that writes lists of good images and returns their folder."""
    for number in range(12):
        (tmp_path / f"{number}.png").write_bytes(encoded(".png", smooth(number)))

    def write(**lists):
        for name, content in lists.items():
            text = content if isinstance(content, str) else json.dumps(content)
            (tmp_path / f"{name}.json").write_text(text)
        return tmp_path

    return write


def kinds(folder):
    return found(check_lists(find_lists([folder])))


def test_clean_lists_have_no_finding(small, capsys):
    folder = small(
        train={"0.png": "a", "1.png": "b"}, test={"2.png": "a", "3.png": "b"}
    )
    assert kinds(folder) == {}
    main(["check", str(folder), "--strict"])
    assert "errors: 0, warnings: 0, images: 4" in capsys.readouterr().out


def test_every_bad_entry_of_a_list_is_named(small):
    entries = [
        {"image": "0.png", "label": "a"},
        {"image": "1.png", "label": "c"},
        {"image": "2.png", "label": 7},
        {"image": "3.png"},
        {"label": "a"},
        "4.png",
        {"image": "5.png", "label": "b"},
    ]
    folder = small(train=entries, classes=["a", "b"])
    result = check_lists(find_lists([folder]))
    assert [(f.kind, f.entry, f.path) for f in result.errors] == [
        ("entry", 2, "1.png"),
        ("entry", 3, "2.png"),
        ("entry", 4, "3.png"),
        ("entry", 5, None),
        ("entry", 6, None),
    ]
    assert "an unknown class" in result.errors[0].detail
    (mended,) = mend_lists(result)
    assert json.loads(mended.path.read_text()) == [entries[0], entries[6]]


@pytest.mark.parametrize(
    ("content", "detail"),
    [
        ("{", "is not valid JSON"),
        ("[]", "is empty or not a list"),
        ('{"0.png": "a", "0.png": "b"}', "has a key twice"),
    ],
)
def test_list_that_cannot_be_read_is_an_error_that_stays(
    small, capsys, content, detail
):
    folder = small(train=content, valid={"0.png": "a"})
    with pytest.raises(SystemExit):
        main(["check", str(folder), "--fix"])
    output = capsys.readouterr().out
    assert detail in output
    assert "not fixed, as they are of whole lists: 1 errors" in output


def test_bad_valid_list_does_not_hide_the_train_list(small):
    folder = small(train={"0.png": "a", "x.png": "a"}, valid="{")
    assert kinds(folder) == {"list": {"valid"}, "missing": {"train x.png"}}


def test_class_that_is_tested_but_not_trained_is_an_error(small):
    train, test = {"0.png": "a"}, {"1.png": "b", "2.png": "a"}
    folder = small(train=train, test=test, classes=["a", "b", "c"])
    assert kinds(folder) == {"untrained class": {"train"}, "missing class": {"test"}}


def test_same_file_under_two_names_in_one_list(small):
    folder = small(train=[{"image": p, "label": "a"} for p in ("0.png", "./0.png")])
    (finding,) = check_lists(find_lists([folder])).findings
    assert str(finding) == "duplicate: train 2 ./0.png: the same file as train 1 0.png"


def test_colour_among_grey_is_odd(tmp_path, small):
    records = {f"{number}.png": "a" for number in range(4)}
    for number in range(3):
        data = saved(smooth(number), "PNG", "L")
        (tmp_path / f"{number}.png").write_bytes(data)
    assert kinds(small(train=records)) == {"colour": {"train 3.png"}}


def test_leak_stays_in_the_last_list(small):
    folder = small(train={"0.png": "a", "1.png": "a"}, valid={"1.png": "a"})
    assert kinds(folder) == {"leak": {"train 1.png"}}
    folder = small(test={"1.png": "a", "2.png": "a"})
    assert kinds(folder) == {"leak": {"train 1.png", "valid 1.png"}}
    match = r"nothing would be left of `.*valid.json`.*Received: 1 entries"
    with pytest.raises(ValueError, match=match):
        mend_lists(check_lists(find_lists([folder])))
    assert not list(folder.glob("*.before-check"))


def test_lists_are_found_or_asked_for(small, tmp_path):
    folder = small(train={"0.png": "a"}, more={"1.png": "a"})
    assert find_lists([folder]) == {"train": folder / "train.json"}
    more = folder / "more.json"
    assert list(find_lists([folder, more])) == ["train", "more"]
    assert list(find_lists([folder, folder / "train.json"])) == ["train"]
    for path in (folder / "no.json", tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=r"`python -m worklab lists.*Recei"):
            find_lists([path])


def test_names_cannot_speak_to_the_terminal(small, capsys):
    folder = small(
        train={"0.png": "[red]\x1b[31mx", "[b]\x1b]0;y.png": "[red]\x1b[31mx"}
    )
    with pytest.raises(SystemExit):
        main(["check", str(folder)])
    output = capsys.readouterr().out
    assert "\x1b" not in output
    assert "[red]" in output
    assert "[b]" in output


# One file


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".bmp"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_truncated_file_is_unreadable(tmp_path, suffix, share):
    data = encoded(suffix, smooth(0))
    (tmp_path / f"a{suffix}").write_bytes(data[: int(share * len(data))])
    assert "unreadable" in inspect_image(tmp_path / f"a{suffix}").notes


def test_bomb_is_huge_and_not_decoded(tmp_path):
    data = bytearray(encoded(".png", smooth(0)))
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    (tmp_path / "a.png").write_bytes(data)
    assert list(inspect_image(tmp_path / "a.png").notes) == ["huge"]


@pytest.mark.parametrize("name", ["a\0b", "a" * 5000])
def test_impossible_path_is_missing(tmp_path, name):
    assert list(inspect_image(tmp_path / name).notes) == ["missing"]


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".JPG"])
def test_usual_suffixes_are_no_finding(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(encoded(".jpg", smooth(0)))
    assert inspect_image(path).notes == {}


def test_random_damage_never_raises(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "a"
    exif = b"Exif\0\0MM\0*" + bytes(range(40))
    datas = [encoded(s, smooth(0)) for s in (".jpg", ".png", ".webp", ".tif", ".gif")]
    datas.append(saved(smooth(0), "JPEG", exif=exif))
    for data in datas:
        for _ in range(20):
            damaged = bytearray(data)
            for place in rng.integers(0, min(len(data), 300), 5):
                damaged[place] = rng.integers(256)
            path.write_bytes(damaged)
            inspect_image(path, CheckOptions(max_megapixels=1))
