from __future__ import annotations

import shutil
import sysconfig
from pathlib import Path

import pytest

from setup import horovod_wheel
from setup.console import SetupError
from setup.cuda_toolkit import Cuda

NO_CUDA = Cuda(None, "", "")
WHEEL = "horovod-0.28.1-cp311-cp311-linux_x86_64.whl"


@pytest.fixture(autouse=True)
def compiler(programs) -> None:
    programs.add("g++", "g++ 12.2.0")


def place(clone: Path, environment: dict[str, str], cuda: Cuda = NO_CUDA) -> Path:
    own = horovod_wheel.shelf(clone, environment, cuda).own
    assert own is not None
    return own


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def keep(clone: Path, environment: dict[str, str], content: bytes = b"wheel") -> Path:
    """Puts a wheel on the shelf as a build does."""
    shelf = horovod_wheel.shelf(clone, environment, NO_CUDA)
    assert shelf.own is not None
    shelf.folder.mkdir(parents=True, exist_ok=True)
    source = clone / WHEEL
    source.write_bytes(content)
    return horovod_wheel._keep(source, shelf, shelf.own)


def test_equal_inputs_have_one_place_in_all_clones(clone: Path, environment, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(clone, other)
    assert place(clone, environment) == place(other, environment)


def test_each_lock_pin_and_recipe_changes_the_place(clone: Path, environment) -> None:
    setup = clone / "setup"
    before = {place(clone, environment)}
    for path, old, new in (
        (setup / "horovod.lock", "horovod==0.28.1", "horovod==0.28.2"),
        (setup / "horovod.lock", "sha256:92a4", "sha256:0000"),
        (setup / "requirements.lock", "\ntorch==2.11.0", "\ntorch==2.12.1"),
        (setup / "horovod-project.cmake", "gnu++17", "gnu++20"),
        (setup / "horovod-toolchain.cmake", "set(", "unset("),
    ):
        replace(path, old, new)
        now = place(clone, environment)
        assert now not in before, path
        before.add(now)


def test_comments_and_other_pins_do_not_change_the_place(clone: Path, environment) -> None:
    before = place(clone, environment)
    replace(clone / "setup" / "horovod.lock", "# Written by", "# Made by")
    replace(clone / "setup" / "requirements.lock", "\nmlflow==3.17.2", "\nmlflow==3.17.3")
    assert place(clone, environment) == before


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CXXFLAGS", "-O1"),
        ("LDFLAGS", "-s"),
        ("CXX", "clang++"),
        ("CUDA_HOME", "/somewhere"),
        ("HOROVOD_GPU_OPERATIONS", "NCCL"),
        ("HOROVOD_NCCL_HOME", "/nccl"),
        ("HOROVOD_BUILD_CUDA_CC_LIST", "90"),
        ("HOROVOD_BUILD_ARCH_FLAGS", "-mavx"),
        ("HOROVOD_WITH_MPI", "1"),
        ("HOROVOD_CPU_OPERATIONS", "GLOO"),
        ("CMAKE_PREFIX_PATH", "/opt"),
    ],
)
def test_each_build_setting_changes_the_place(
    name: str, value: str, clone: Path, environment, programs
) -> None:
    programs.add("clang++", "g++ 12.2.0")
    assert place(clone, environment | {name: value}) != place(clone, environment)


@pytest.mark.parametrize("name", ["HOROVOD_LOG_LEVEL", "HOROVOD_CYCLE_TIME", "HOROVOD_TIMELINE", "LANG"])
def test_settings_for_running_do_not(name: str, clone: Path, environment) -> None:
    assert place(clone, environment | {name: "debug"}) == place(clone, environment)


def test_compiler_and_its_version_change_the_place(clone: Path, environment, programs) -> None:
    before = place(clone, environment)
    programs.add("g++", "g++ 13.1.0")
    assert place(clone, environment) != before
    assert place(clone, environment).parent == before.parent


def test_cuda_home_and_version_change_the_place(clone: Path, environment) -> None:
    cudas = [NO_CUDA, *(Cuda(Path(home), version, "") for home in ("/a", "/b") for version in ("12", "13"))]
    assert len({place(clone, environment, cuda) for cuda in cudas}) == len(cudas)


def test_the_reason_for_cuda_does_not(clone: Path, environment) -> None:
    assert place(clone, environment, Cuda(None, "", "half")) == place(clone, environment)


@pytest.mark.parametrize(
    ("target", "answer"),
    [
        ("sys.version_info", (3, 12, 1)),
        ("sysconfig.get_platform", lambda: "linux-aarch64"),
        ("sysconfig.get_config_var", lambda name: "cpython-311d-x86_64-linux-gnu"),
        ("platform.libc_ver", lambda: ("glibc", "2.99")),
        ("setup.horovod_wheel.cpu_flags", lambda: ["avx512f"]),
    ],
)
def test_python_platform_and_processor_change_the_place(
    target: str, answer: object, clone: Path, environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = place(clone, environment)
    monkeypatch.setattr(target, answer)
    assert place(clone, environment) != before


def test_the_processors_flags_are_those_that_the_build_looks_for(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("flags : fpu sse2 fma avx avx2\n")
    assert horovod_wheel.cpu_flags(tmp_path / "cpuinfo") == ["avx", "fma"]


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"DLSPARK_CACHE": "/elsewhere", "XDG_CACHE_HOME": "/xdg"}, "/elsewhere"),
        ({"XDG_CACHE_HOME": "/xdg"}, "/xdg/dlspark"),
        ({"XDG_CACHE_HOME": "relative"}, "~/.cache/dlspark"),
        ({}, "~/.cache/dlspark"),
    ],
)
def test_the_cache_is_where_the_user_wants_it(variables: dict[str, str], folder: str) -> None:
    assert horovod_wheel.cache_folder(variables) == Path(folder).expanduser()


def test_a_kept_wheel_is_found_again(clone: Path, environment) -> None:
    wheel = keep(clone, environment)
    assert horovod_wheel.kept_wheel(horovod_wheel.shelf(clone, environment, NO_CUDA)) == wheel
    assert {path.name for path in wheel.parent.iterdir()} == {WHEEL, "SHA256", "inputs.json"}
    assert [path for path in wheel.parent.parent.iterdir() if path != wheel.parent] == []


def test_without_a_compiler_another_ones_wheel_is_taken(clone: Path, environment, programs) -> None:
    wheel = keep(clone, environment)
    (programs.folder / "g++").unlink()
    assert horovod_wheel.kept_wheel(horovod_wheel.shelf(clone, environment, NO_CUDA)) == wheel


def test_another_compiler_does_not_take_it(clone: Path, environment, programs) -> None:
    keep(clone, environment)
    programs.add("g++", "g++ 13.1.0")
    assert horovod_wheel.kept_wheel(horovod_wheel.shelf(clone, environment, NO_CUDA)) is None


@pytest.mark.parametrize("damage", ["changed", "wheel gone", "no checksum", "checksum empty"])
def test_a_corrupt_wheel_is_said_and_dropped(damage: str, clone: Path, environment, capsys) -> None:
    wheel = keep(clone, environment)
    checksum = wheel.with_name("SHA256")
    match damage:
        case "changed":
            wheel.write_bytes(b"wheeL")
        case "wheel gone":
            wheel.unlink()
        case "no checksum":
            checksum.unlink()
        case "checksum empty":
            checksum.write_text("")
    assert horovod_wheel.kept_wheel(horovod_wheel.shelf(clone, environment, NO_CUDA)) is None
    (line,) = capsys.readouterr().err.splitlines()
    assert "corrupt and will be rebuilt" in line
    assert not wheel.parent.exists()


def test_of_two_builds_at_once_the_first_one_stays(clone: Path, environment) -> None:
    first = keep(clone, environment, b"first")
    assert keep(clone, environment, b"second") == first
    assert first.read_bytes() == b"first"


def test_a_cache_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match=r"cannot write the cache folder .* set DLSPARK_CACHE"):
        horovod_wheel._make_folder(tmp_path / "file" / "wheels")


def test_the_build_is_told_the_users_settings(clone: Path, environment, tmp_path: Path) -> None:
    wishes = {"HOROVOD_WITH_MPI": "1", "HOROVOD_GPU_OPERATIONS": "NCCL", "MAKELEVEL": "1", "MAKEFLAGS": "s"}
    cuda = Cuda(tmp_path, "13.0", "")
    told = horovod_wheel._build_environment(clone, tmp_path, Path("python"), environment | wishes, cuda)
    assert told["HOROVOD_GPU_OPERATIONS"] == "NCCL"
    assert "HOROVOD_WITHOUT_MPI" not in told
    assert told["HOROVOD_WITH_PYTORCH"] == "1"
    assert told["MAKEFLAGS"] == f"-j{horovod_wheel.num_jobs()}"
    assert "MAKELEVEL" not in told
    assert "DLSPARK_PYTHON_WITHOUT_CUDA" not in told
    assert Path(told["CMAKE_TOOLCHAIN_FILE"]).is_file()


def test_the_kept_shelf_names_this_python(clone: Path, environment) -> None:
    inputs = horovod_wheel.shelf(clone, environment, NO_CUDA).inputs
    assert inputs["python"].endswith(sysconfig.get_config_var("SOABI"))
    assert inputs["torch"] == "2.11.0"
