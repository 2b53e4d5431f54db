from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from setup import cuda_toolkit
from setup.console import SetupError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.setup.conftest import Programs

NVCC = "Cuda compilation tools, release 13.0, V13.0.88"


@pytest.fixture
def toolkit(tmp_path: Path, programs: Programs) -> Path:
    """A whole toolkit."""
    home = tmp_path / "cuda"
    for part in ("include/cuda_runtime.h", "lib64/libcudart_static.a"):
        (home / part).parent.mkdir(parents=True)
        (home / part).touch()
    (home / "bin").mkdir()
    programs.add(str(home / "bin" / "nvcc"), NVCC)
    return home


@pytest.fixture
def gpu(tmp_path: Path) -> tuple[Path]:
    (tmp_path / "nvidia0").touch()
    return (tmp_path / "nvidia0",)


def test_without_gpu_and_without_wish_there_is_no_cuda(environment, toolkit: Path) -> None:
    cuda = cuda_toolkit.decide(environment, usual_home=toolkit, devices=())
    assert cuda.home is None
    assert cuda.reason == "no GPU here and none asked for"


def test_a_gpu_takes_the_toolkit_in_its_usual_place(environment, toolkit: Path, gpu) -> None:
    cuda = cuda_toolkit.decide(environment, usual_home=toolkit, devices=gpu)
    assert cuda == (toolkit, "13.0.88", "an NVIDIA GPU is here")


def test_a_named_home_is_a_wish_and_goes_first(environment, toolkit: Path, tmp_path: Path) -> None:
    environment["CUDA_HOME"] = str(toolkit)
    cuda = cuda_toolkit.decide(environment, usual_home=tmp_path / "other", devices=())
    assert (cuda.home, cuda.reason) == (toolkit, "CUDA_HOME")


def test_the_toolkit_is_found_where_a_link_to_nvcc_leads(
    environment, programs, toolkit: Path, gpu, tmp_path
) -> None:
    (programs.folder / "nvcc").symlink_to(toolkit / "bin" / "nvcc")
    assert cuda_toolkit.decide(environment, usual_home=tmp_path / "none", devices=gpu).home == toolkit


def test_a_wrapper_of_nvcc_does_not_hide_the_whole_toolkit(environment, programs, toolkit: Path, gpu) -> None:
    programs.add("nvcc", NVCC)  # its folder's parent has neither headers nor libraries
    assert cuda_toolkit.decide(environment, usual_home=toolkit, devices=gpu).home == toolkit


def test_half_a_toolkit_is_said_and_left_out(environment, toolkit: Path) -> None:
    (toolkit / "include" / "cuda_runtime.h").unlink()
    environment["CUDA_HOME"] = str(toolkit)
    cuda = cuda_toolkit.decide(environment, devices=())
    assert cuda.home is None
    assert cuda.reason == f"no whole CUDA toolkit: {toolkit} lacks include/cuda_runtime.h"


def test_a_toolkit_whose_nvcc_fails_is_not_whole(environment, programs: Programs, toolkit: Path) -> None:
    programs.add(str(toolkit / "bin" / "nvcc"), "cannot execute", status=1)
    environment["CUDA_HOME"] = str(toolkit)
    assert "lacks an nvcc that runs" in cuda_toolkit.decide(environment, devices=()).reason


def test_gpu_operations_without_a_toolkit_are_one_clear_line(environment, tmp_path: Path) -> None:
    environment["HOROVOD_GPU_OPERATIONS"] = "NCCL"
    with pytest.raises(SetupError) as error:
        cuda_toolkit.decide(environment, usual_home=tmp_path / "none", devices=())
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith("HOROVOD_GPU_OPERATIONS=NCCL needs a whole CUDA toolkit")
    assert "set CUDA_HOME" in message


def test_rocm_is_left_to_horovod(environment, toolkit: Path) -> None:
    environment |= {"HOROVOD_GPU": "ROCM", "HOROVOD_GPU_OPERATIONS": "NCCL"}
    assert cuda_toolkit.decide(environment, usual_home=toolkit, devices=()).home is None


def test_everyone_is_told_the_same_home(environment, toolkit: Path) -> None:
    environment["CUDA_PATH"] = "/elsewhere"
    cuda = cuda_toolkit.Cuda(toolkit, "13.0.88", "")
    told = cuda_toolkit.build_environment(cuda, environment)
    for name in ("HOROVOD_CUDA_HOME", "CUDA_HOME", "CUDA_PATH", "CUDAToolkit_ROOT"):
        assert told[name] == str(toolkit)
    assert told["CUDACXX"] == str(toolkit / "bin" / "nvcc")
    assert told["PATH"].startswith(str(toolkit / "bin"))


def test_without_cuda_no_home_is_left(environment) -> None:
    environment["CUDA_HOME"] = "/half"
    told = cuda_toolkit.build_environment(cuda_toolkit.Cuda(None, "", ""), environment)
    assert not {"HOROVOD_CUDA_HOME", "CUDA_HOME", "CUDA_PATH"} & told.keys()


def test_another_generation_than_torchs_is_said(toolkit: Path) -> None:
    assert "may not load" in cuda_toolkit.describe(
        cuda_toolkit.Cuda(toolkit, "12.4.1", "CUDA_HOME"), "13.0.2"
    )
    assert "may not load" not in cuda_toolkit.describe(
        cuda_toolkit.Cuda(toolkit, "13.1.9", "CUDA_HOME"), "13.0.2"
    )
